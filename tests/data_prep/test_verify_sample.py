"""`verify` on samples that break the contract in one way each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors.numpy import save
from shard_folders import (
    CHANNELS,
    SIZE,
    Members,
    damages,
    latents,
    png,
    rewrite,
    write_manifest,
    write_shards,
)

from anyscene.data.sample import ShardManifest

KEY = "drawn-002"  # the second one of the first shard


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards, with scenes and cached. Read only."""
    folder = tmp_path_factory.mktemp("originals")
    write_shards(folder / "train")
    write_shards(folder / "cached", cached=True)
    return folder


@pytest.fixture
def shards(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "train", tmp_path / "sets" / "train"))


@pytest.fixture
def cached(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "cached", tmp_path / "sets" / "cached"))


def empty_mask(members: Members) -> None:
    members["mask.png"] = png(np.zeros((SIZE, SIZE), np.uint8))


def moved_mask(members: Members) -> None:
    mask = cv2.imdecode(np.frombuffer(members["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    members["mask.png"] = png(np.roll(mask, 9, axis=1))


def two_elements(members: Members) -> None:
    numbers = np.zeros((SIZE, SIZE), np.uint8)
    numbers[15:18, 9:12] = 1
    numbers[19:20, 9:12] = 3
    members["elements.png"] = png(numbers)


def smaller_element(members: Members) -> None:
    numbers = np.zeros((SIZE, SIZE), np.uint8)
    numbers[10:30, 8:13] = 1
    members["elements.png"] = png(numbers)


def change_meta(members: Members, **values: object) -> None:
    members["meta.json"] = json.dumps(json.loads(members["meta.json"]) | values).encode()


def change_element(members: Members, **values: object) -> None:
    element = json.loads(members["meta.json"])["elements"][0]
    kept = {name: value for name, value in (element | values).items() if value is not None}
    change_meta(members, elements=[kept])


def flip(members: Members) -> None:
    data = bytearray(members["scene.png"])
    data[len(data) // 2] ^= 4
    members["scene.png"] = bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("mask.png"), "mask.png missing"),
        (lambda members: members.pop("scene.png"), "scene.png or scene.jpg missing"),
        (lambda members: members.pop("meta.json"), "meta.json missing"),
        (lambda members: members.update({"a.txt": b"1"}), "unknown member a.txt"),
        (lambda members: members.update({"scene.jpg": b"1"}), "two scenes"),
        (lambda members: members.update({"scene.png": b""}), "scene.png cannot be decoded"),
        (lambda members: members.update({"latents.safetensors": b""}), "unknown member latents"),
        (flip, "scene.png cannot be decoded"),
        (lambda members: members.update({"meta.json": b"{"}), "meta.json is damaged"),
        (lambda members: members.update({"meta.json": b"{}"}), "meta.json lacks 'bucket'"),
        (lambda members: change_meta(members, size="large"), "meta.json is damaged"),
        (lambda members: change_meta(members, size=[40, 40]), "size 40x40, bucket 48x48"),
        (lambda members: change_meta(members, key="other"), "meta.json has the key 'other'"),
        (lambda members: change_meta(members, captions=[]), "meta.json has no captions"),
        (lambda members: change_meta(members, captions=["  "]), "meta.json has no captions"),
        (lambda members: change_meta(members, captions="a dog"), "meta.json has no captions"),
        (lambda members: change_meta(members, captions=["a\ud83d"]), "meta.json has no captions"),
        (lambda members: change_meta(members, original_size=[0, 9]), "meta.json has [0, 9] where"),
        (lambda members: change_meta(members, crop_top_left=[-1, 0]), "meta.json has [-1, 0] wh"),
        (lambda members: change_meta(members, crop_top_left=[10**30, 0]), "meta.json has [1000"),
        (lambda members: change_element(members, area_share=1.5), "an element in meta.json has ar"),
        (lambda members: change_element(members, mask_quality=None), "an element in meta.json la"),
        (lambda members: change_element(members, category=None), "an element in meta.json lacks"),
        (
            lambda members: members.update({"scene.png": png(np.ones((40, 48, 3), np.uint8))}),
            "scene.png is uint8 (40, 48, 3), expected uint8 (48, 48, 3)",
        ),
        (
            lambda members: members.update({"mask.png": png(np.ones((48, 48, 3), np.uint8))}),
            "mask.png is uint8 (48, 48, 3), expected uint8 (48, 48)",
        ),
        (empty_mask, "mask.png has no foreground"),
        (moved_mask, "elements.png has an element where mask.png is 0"),
        (two_elements, "elements.png has [1, 3], meta.json 1 elements"),
        (smaller_element, "element 1 has the box [8, 10, 5, 20] in elements.png, [8, 10, 6, 20]"),
    ],
)
def test_a_damaged_sample_is_named(
    shards: Path, change: Callable[[Members], object], message: str
) -> None:
    rewrite(shards, lambda samples: change(samples[1][1]))
    found = damages(shards)
    assert len(found) == 1
    assert found[0].startswith(f"train-000000.tar: {KEY}: {message}")


SHAPE = (CHANNELS, SIZE // 8, SIZE // 8)
EMPTY = np.zeros(SHAPE, np.float16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"none", "latents.safetensors cannot be read"),
        (save({"mean": EMPTY}), "latents.safetensors has ['mean'], expected mean and std"),
        (latents(shape=(4, 6, 5)), "latents.safetensors has a mean of ('F16', (4, 6, 5)), ex"),
        (latents(shape=(3, 6, 6)), "latents.safetensors has a mean of ('F16', (3, 6, 6)), ex"),
        (latents(dtype=np.float32), "latents.safetensors has a mean of ('F32', (4, 6, 6)), ex"),
        (latents(mean=np.nan), "latents.safetensors has a mean that is not finite"),
        (latents(std=np.inf), "latents.safetensors has a std that is not finite"),
        (latents(std=-0.5), "latents.safetensors has a negative std"),
    ],
)
def test_damaged_latents_are_named(cached: Path, data: bytes, message: str) -> None:
    rewrite(cached, lambda samples: samples[1][1].update({"latents.safetensors": data}))
    found = damages(cached)
    assert len(found) == 1
    assert found[0].startswith(f"train-000000.tar: {KEY}: {message}")


def test_latents_that_are_not_finite_in_bfloat16_are_found(cached: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_torch

    manifest = ShardManifest.read(cached)
    assert manifest.base
    manifest.base["dtype"] = "bf16"
    write_manifest(cached, manifest)

    def moments(worst: float) -> bytes:
        mean = torch.full(SHAPE, 3.0, dtype=torch.bfloat16)
        mean[0, 0, 0] = worst
        return save_torch({"mean": mean, "std": torch.ones(SHAPE, dtype=torch.bfloat16)})

    for worst, expected in ((3e38, 0), (float("nan"), 1), (float("-inf"), 1)):
        latents_bytes = moments(worst)
        rewrite(cached, lambda samples, data=latents_bytes: _set_latents(samples, data))
        assert sum("mean that is not finite" in line for line in damages(cached)) == expected


def _set_latents(samples: list[tuple[str, Members]], data: bytes) -> None:
    samples[0][1]["latents.safetensors"] = data


def test_a_cached_sample_has_a_foreground_and_no_scene(cached: Path) -> None:
    def swap(samples: list[tuple[str, Members]]) -> None:
        members = samples[1][1]
        members["scene.png"] = members["foreground.png"]

    rewrite(cached, swap)
    assert damages(cached) == [f"train-000000.tar: {KEY}: unknown member scene.png"]
    rewrite(cached, lambda samples: samples[1][1].pop("foreground.png"))
    assert damages(cached) == [f"train-000000.tar: {KEY}: foreground.png or foreground.jpg missing"]
