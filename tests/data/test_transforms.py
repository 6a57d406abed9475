"""From the host batch to floats and hints."""

from pathlib import Path

import pytest
import torch
from shard_files import write_shards

from anyscene.compositing.hint import make_hint
from anyscene.data.sample import HostBatch
from anyscene.data.shards import validation_pipeline
from anyscene.data.stream import Share
from anyscene.data.transforms import DeviceBatch, to_device_batch


@pytest.fixture
def batch(tmp_path: Path) -> HostBatch:
    manifest = write_shards(tmp_path, [4], [(16, 24)])
    return next(iter(validation_pipeline(manifest, Share(), limit=4, batch_size=4)))


def on_device(batch: HostBatch, *, train: bool, seed: int = 0) -> DeviceBatch:
    return to_device_batch(batch, "cpu", exposure_stops=0.5, tint=0.2, seed=seed, train=train)


def test_ranges_and_shapes(batch: HostBatch) -> None:
    device = on_device(batch, train=False)
    scene = batch["scene_uint8"].float()
    torch.testing.assert_close(device["scene"], scene / 127.5 - 1, atol=1e-6, rtol=0)
    assert device["scene"].is_contiguous()
    assert torch.equal(device["mask"], batch["mask_uint8"] / 255)
    assert torch.equal(device["hint"], make_hint(scene / 255, batch["mask_uint8"] / 255))
    assert device["hint"].shape == (4, 5, 16, 24)
    for name in ("prompt", "key", "truth"):
        assert device[name] is batch[name]
    for name in ("counter", "original_size", "crop_top_left"):
        assert torch.equal(device[name], batch[name])


def test_training_changes_the_light_of_the_hint_only(batch: HostBatch) -> None:
    still, jittered = on_device(batch, train=False), on_device(batch, train=True)
    assert torch.equal(still["scene"], jittered["scene"])
    inside = batch["mask_uint8"][:, 0] == 255
    for number in range(4):
        moved = (still["hint"] - jittered["hint"])[number, :3].abs()
        assert moved[:, inside[number]].max() > 0.01
        assert moved[:, ~inside[number]].max() == 0
    assert torch.equal(still["hint"][:, 3:], jittered["hint"][:, 3:])
    assert not torch.equal(jittered["hint"], on_device(batch, train=True, seed=1)["hint"])


def test_jitter_depends_on_the_slot_not_on_the_batch(batch: HostBatch) -> None:
    whole = on_device(batch, train=True)["hint"]
    half: HostBatch = batch.copy()
    for name in ("counter", "scene_uint8", "mask_uint8"):
        half[name] = batch[name][2:]
    torch.testing.assert_close(on_device(half, train=True)["hint"], whole[2:], atol=1e-6, rtol=0)
