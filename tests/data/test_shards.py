"""Reading, and what happens to damaged samples."""

import json
import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import Members, members_of, png, scene_of, write_shards

from anyscene.data import reader
from anyscene.data.mixing import make_order
from anyscene.data.reader import ShardReader
from anyscene.data.sample import HostBatch, ShardManifest
from anyscene.data.shards import train_pipeline, validation_pipeline
from anyscene.data.stream import Share, Slot
from anyscene.errors import DamageError


def train_batches(manifest: ShardManifest, count: int, start: int = 0) -> list[HostBatch]:
    """The first batches of four."""
    order = make_order(manifest, seed=1, batch_size=4, shuffle_window=8)
    return list(islice(train_pipeline(manifest, order, Share(), start), count))


def keys_of(batches: list[HostBatch]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


def damage_of(batches: list[HostBatch]) -> list[str]:
    assert all(batch["replaced"] == len(batch["damage"]) for batch in batches)
    return [line for batch in batches for line in batch["damage"]]


def test_a_sample_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [9], [(16, 24)])
    (batch,) = validation_pipeline(manifest, Share(), limit=3, batch_size=4)
    assert batch["key"] == ["s000000", "s000001", "s000002"]
    assert batch["prompt"] == ["first of 0", "first of 1", "first of 2"]
    assert batch["scene_uint8"].shape == (3, 3, 16, 24)
    for number in range(3):
        scene = batch["scene_uint8"][number].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(scene, scene_of(number, (16, 24)))
    assert batch["mask_uint8"].shape == batch["elements_uint8"].shape == (3, 1, 16, 24)
    assert (batch["mask_uint8"] == 255 * batch["elements_uint8"]).all()
    assert batch["mask_uint8"].sum() == 3 * 255 * 36
    assert batch["original_size"].tolist() == [[32, 48]] * 3
    assert batch["crop_top_left"].tolist() == [[0, 1], [1, 1], [2, 1]]
    assert batch["truth"] == [None, {"number": 1}, None]
    assert batch["counter"].tolist() == [0, 1, 2]
    assert batch["replaced"] == 0


def test_reads_what_webdataset_writes(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [3])
    with webdataset.TarWriter(str(tmp_path / manifest.shards[0].name)) as writer:
        for number in range(3):
            key = f"written/s{number}"
            writer.write({"__key__": key, **members_of(number, key, (16, 16))})
    (batch,) = validation_pipeline(manifest, Share(), limit=3, batch_size=4)
    assert batch["key"] == ["written/s0", "written/s1", "written/s2"]


def test_jpeg_scene(tmp_path: Path) -> None:
    def as_jpeg(_: str, members: Members) -> Members:
        bgr = cv2.imdecode(np.frombuffer(members.pop("scene.png"), np.uint8), cv2.IMREAD_COLOR)
        return {"scene.jpg": cv2.imencode(".jpg", bgr)[1].tobytes(), **members}

    manifest = write_shards(tmp_path, [2], [(32, 32)], as_jpeg)
    (batch,) = validation_pipeline(manifest, Share(), limit=2, batch_size=4)
    scene = batch["scene_uint8"][1].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(scene - scene_of(1, (32, 32))).mean() < 12  # channels swapped: over 60


def test_captions_are_chosen_by_slot(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [8])
    batches = train_batches(manifest, 40)
    chosen = [prompt.split()[0] for batch in batches for prompt in batch["prompt"]]
    assert {word: chosen.count(word) > 30 for word in chosen} == dict.fromkeys(
        ("first", "second", "third"), True
    )
    assert [b["prompt"] for b in train_batches(manifest, 7, 33)] == [
        b["prompt"] for b in batches[33:]
    ]


def test_nothing_is_read_to_be_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_shards(tmp_path, [20, 20])
    spans: list[tuple[int, int]] = []
    read = reader.read_exactly
    monkeypatch.setattr(
        reader, "read_exactly", lambda *span: (spans.append(span[1:]), read(*span))[1]
    )
    batches = train_batches(manifest, 2, start=7)
    assert keys_of(batches) == keys_of(train_batches(manifest, 9))[28:]
    assert len(spans) == 8 + 36


def truncated(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def described(members: Members, **values: Any) -> Members:
    meta = json.loads(members["meta.json"]) | values
    return members | {"meta.json": json.dumps(meta).encode()}


DAMAGE: dict[str, tuple[Callable[[Members], Members], str]] = {
    "flipped byte": (lambda m: m | {"scene.png": flipped(m["scene.png"])}, "scene.png cannot be"),
    "cut image": (lambda m: m | {"mask.png": truncated(m["mask.png"])}, "mask.png cannot be"),
    "empty image": (lambda m: m | {"elements.png": b""}, "elements.png cannot be decoded"),
    "no scene": (
        lambda m: {k: v for k, v in m.items() if k != "scene.png"},
        "scene.png is missing",
    ),
    "no mask": (lambda m: {k: v for k, v in m.items() if k != "mask.png"}, "mask.png is missing"),
    "no meta": (lambda m: {k: v for k, v in m.items() if k != "meta.json"}, "meta.json is missing"),
    "cut meta": (lambda m: m | {"meta.json": truncated(m["meta.json"])}, "meta.json is damaged"),
    "meta of another kind": (lambda m: m | {"meta.json": b"[1]"}, "meta.json is damaged"),
    "no captions": (
        lambda m: m | {"meta.json": json.dumps({"captions": []}).encode()},
        "meta.json has no captions",
    ),
    "a text for captions": (lambda m: described(m, captions="a dog"), "meta.json has no captions"),
    "half a character": (
        lambda m: described(m, captions=["a \ud83d"]),
        "meta.json has no captions",
    ),
    "absurd original": (
        lambda m: described(m, original_size=[10**30, 16]),
        r"meta.json has \[1000000",
    ),
    "wrong size": (
        lambda m: m | {"scene.png": png(np.zeros((16, 15, 3), np.uint8))},
        "scene.png is 16x15, not 16x16 pixels",
    ),
    "colour mask": (
        lambda m: m | {"mask.png": png(np.full((16, 16, 3), 255, np.uint8))},
        r"mask.png is uint8 \(16, 16, 3\), not uint8 \(16, 16\)",
    ),
    "deep mask": (
        lambda m: m | {"mask.png": png(np.full((16, 16), 65535, np.uint16))},
        r"mask.png is uint16",
    ),
    "no foreground": (
        lambda m: m | {"mask.png": png(np.full((16, 16), 90, np.uint8))},
        "mask.png has no foreground",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_samples_are_replaced_and_counted(kind: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[kind]
    broken = {"s000003", "s000017"}
    manifest = write_shards(
        tmp_path, [12, 12], change=lambda key, m: damage(m) if key in broken else m
    )
    batches = train_batches(manifest, 6)
    keys = keys_of(batches)
    assert len(keys) == 24
    assert not broken & set(keys)
    lines = damage_of(batches)
    assert {line.split(":")[0] for line in lines} == {
        "shard-000.tar, s000003",
        "shard-001.tar, s000017",
    }
    with pytest.raises(DamageError, match=rf"^shard-000.tar, s000003: {message}"):
        ShardReader(manifest).sample(Slot(0, 0, 0, 3))
    whole = keys_of(train_batches(write_shards(tmp_path / "whole", [12, 12]), 6))
    assert [a for a, b in zip(whole, keys, strict=True) if a != b] == [
        key for key in whole if key in broken
    ]
    assert keys_of(train_batches(manifest, 3, start=3)) == keys[12:]


def test_truncated_tar(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [12, 12])
    path = tmp_path / manifest.shards[0].name
    os.truncate(path, path.stat().st_size // 2)
    batches = train_batches(manifest, 6)
    assert len(keys_of(batches)) == 24
    lines = damage_of(batches)
    assert any("the file ends after" in line for line in lines)
    assert all(line.startswith("shard-000.tar, s") for line in lines)


def test_validation_leaves_damage_out(tmp_path: Path) -> None:
    broken = {"s000004", "s000008"}
    manifest = write_shards(
        tmp_path, [9], change=lambda key, m: {"mask.png": b""} if key in broken else m
    )
    *batches, rest = validation_pipeline(manifest, Share(), limit=9, batch_size=4)
    assert keys_of(batches) == [f"s{n:06d}" for n in range(8) if n != 4]
    assert len(damage_of(batches)) == 1
    assert rest == ["shard-000.tar, s000008: mask.png cannot be decoded"]


def test_a_bucket_of_damage_is_an_error(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [8], change=lambda _, m: m | {"mask.png": b""})
    (error,) = train_batches(manifest, 5)
    assert isinstance(error, DamageError)
    assert "32 samples in a row are damaged" in str(error)
    assert "shard-000.tar, s0000" in str(error)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=60),
    st.floats(0.5, 1),
)
def test_random_damage_is_replaced_or_named(
    flips: list[tuple[float, int]], kept_share: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_shards(Path(folder), [6, 6])
        path = Path(folder) / "shard-001.tar"
        data = bytearray(path.read_bytes())
        for place, change in flips:
            data[int(place * len(data))] ^= change
        path.write_bytes(data[: int(kept_share * len(data))])
        batches = train_batches(manifest, 6)
        assert len(keys_of(batches)) == 24
        assert all(line.startswith("shard-001.tar, s") for line in damage_of(batches))
        for batch in batches:
            for key, scene in zip(batch["key"], batch["scene_uint8"], strict=True):
                if key.startswith("s0") and key[1:].isdigit():
                    written = scene_of(int(key[1:]), (16, 16))
                    np.testing.assert_array_equal(scene.permute(1, 2, 0).numpy(), written)
