"""From the host batch to floats and hints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from shard_files import members_of, scene_of, write_shards

from anyscene.compositing.hint import make_hint
from anyscene.config import DataConfig
from anyscene.data.sample import HostBatch
from anyscene.data.shards import validation_pipeline
from anyscene.data.stream import Share, Slot
from anyscene.data.transforms import DeviceBatch, Loaded, collate, decode, to_device_batch
from anyscene.errors import DamageError


@pytest.fixture
def batch(tmp_path: Path) -> HostBatch:
    manifest = write_shards(tmp_path, [4], [(16, 24)])
    return next(iter(validation_pipeline(manifest, Share(), limit=4, batch_size=4)))


def on_device(batch: HostBatch, *, train: bool, seed: int = 0) -> DeviceBatch:
    light = DataConfig(exposure_stops=0.5, tint=0.2)
    return to_device_batch(batch, "cpu", augment=light if train else None, seed=seed)


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


def moments(
    shape: tuple[int, ...] = (4, 4, 6), dtype: torch.dtype = torch.float16, value: float = 0.5
) -> dict[str, torch.Tensor]:
    return {name: torch.full(shape, value, dtype=dtype) for name in ("mean", "std")}


def cached_members(stored: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The members of a cached sample of 16x24."""
    members = members_of(3, "s", (16, 24))
    members["foreground.png"] = members.pop("scene.png")
    return members | {"latents.safetensors": save(stored)}


def test_a_cached_sample_comes_back_as_it_was_stored() -> None:
    stored = moments() | {"std": torch.rand(4, 4, 6).half()}
    sample = decode(Slot(7, 0, 0, 0), "s", cached_members(stored), (16, 24), (4, 4, 6))
    loaded = Loaded(room=3)
    for _ in range(2):
        loaded.add(sample)
    (host,) = collate([loaded])
    assert "scene_uint8" not in host
    assert torch.equal(host["latent_mean"], torch.stack([stored["mean"]] * 2))
    assert torch.equal(host["latent_std"], torch.stack([stored["std"]] * 2))
    foreground = host["foreground_uint8"][1].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(foreground, scene_of(3, (16, 24)))
    device = to_device_batch(host, "cpu")
    assert device["latent_std"].dtype == torch.float32
    assert torch.equal(device["latent_std"], host["latent_std"].float())
    rgb, mask = host["foreground_uint8"] / 255, host["mask_uint8"] / 255
    assert torch.equal(device["hint"], make_hint(rgb.contiguous(), mask))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("latents.safetensors"), "latents.safetensors is missing"),
        (lambda m: m.pop("foreground.png"), "foreground.png is missing"),
        (lambda m: m.update({"latents.safetensors": b""}), "latents.safetensors is damaged"),
        (lambda m: m.update({"latents.safetensors": save(moments())[:-1]}), "is damaged"),
        (lambda m: m.update({"latents.safetensors": save({"mean": torch.ones(1)})}), "'std'"),
        (
            lambda m: m.update({"latents.safetensors": save(moments((4, 6, 4)))}),
            r"has torch.float16 \(4, 6, 4\), not floats \(4, 4, 6\)",
        ),
        (
            lambda m: m.update({"latents.safetensors": save(moments(dtype=torch.int16))}),
            r"has torch.int16 \(4, 4, 6\), not floats",
        ),
        (
            lambda m: m.update({"latents.safetensors": save(moments(value=float("nan")))}),
            "has values that are not finite",
        ),
        (
            lambda m: m.update({"latents.safetensors": save(moments(value=float("inf")))}),
            "has values that are not finite",
        ),
    ],
)
def test_damage_of_a_cached_sample(
    change: Callable[[dict[str, bytes]], object], message: str
) -> None:
    members = cached_members(moments())
    change(members)
    with pytest.raises(DamageError, match=message):
        decode(Slot(0, 0, 0, 0), "s", members, (16, 24), (4, 4, 6))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_damage_of_latents_is_told(data: st.DataObject) -> None:
    """Any bytes are either moments of the right shape, all finite, or damage."""
    stored = bytearray(save(moments()))
    for _ in range(data.draw(st.integers(1, 4))):
        stored[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
    stored = stored[: data.draw(st.integers(0, len(stored) + 50))]
    members = cached_members(moments()) | {"latents.safetensors": bytes(stored)}
    try:
        sample = decode(Slot(0, 0, 0, 0), "s", members, (16, 24), (4, 4, 6))
    except DamageError:
        return
    assert sample.moments is not None
    assert all(values.shape == (4, 4, 6) and values.isfinite().all() for values in sample.moments)
