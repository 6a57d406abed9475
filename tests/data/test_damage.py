"""What a header claims, against Pillow; and what an index reveals."""

import io
import logging
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import Members, members_of, png, scene_of, write_index, write_shards, write_tar

from anyscene.data.damage import image_size
from anyscene.data.index import index_path
from anyscene.data.reader import ShardReader
from anyscene.data.sample import ShardManifest
from anyscene.data.stream import Slot
from anyscene.errors import DamageError

SIZE = (32, 32)


def as_jpeg(_: str, members: Members) -> Members:
    """The sample with its scene as a JPEG."""
    bgr = cv2.imdecode(np.frombuffer(members.pop("scene.png"), np.uint8), cv2.IMREAD_COLOR)
    return {"scene.jpg": cv2.imencode(".jpg", bgr)[1].tobytes(), **members}


def sample(manifest: ShardManifest, number: int, shard: int = 0) -> np.ndarray:
    """The scene of a sample."""
    return ShardReader(manifest).sample(Slot(0, 0, shard, number)).image


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from(
        [
            {"format": "PNG"},
            {"format": "JPEG"},
            {"format": "JPEG", "progressive": True},
            {"format": "JPEG", "exif": b"Exif\0\0" + bytes(3000), "comment": b"\xff\xc0 text"},
        ]
    ),
)
def test_size_in_the_header_as_pillow_reads_it(height: int, width: int, options: dict) -> None:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, **options)
    assert image_size(file.getvalue()) == Image.open(file).size[::-1] == (height, width)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0"]))
def test_size_in_any_bytes(data: bytes, start: bytes) -> None:
    found = image_size(start + data)
    assert found is None or len(found) == 2


def claimed_png(height: int, width: int) -> bytes:
    """A PNG whose header claims a size, with the right checksum."""
    data = png(np.zeros(SIZE, np.uint8))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def claimed_jpeg(height: int, width: int) -> bytes:
    """A JPEG whose header claims a size."""
    data = cv2.imencode(".jpg", np.zeros((*SIZE, 3), np.uint8))[1].tobytes()
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize(
    ("name", "make"),
    [("scene.png", claimed_png), ("mask.png", claimed_png), ("scene.jpg", claimed_jpeg)],
)
def test_an_absurd_size_takes_no_memory(
    name: str, make: Callable[[int, int], bytes], tmp_path: Path
) -> None:
    """OpenCV would take 2.7 GB for the scene."""

    def change(_: str, members: Members) -> Members:
        if name == "scene.jpg":
            del members["scene.png"]
        return members | {name: make(30000, 30000)}

    manifest = write_shards(tmp_path, [1], [SIZE], change, indexed=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamageError, match=rf"s000000: {name} is 30000x30000, not 32x32 pixels"):
        sample(manifest, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000  # kB


def flip_bit_of_scene(manifest: ShardManifest) -> None:
    """Change one bit in the middle of the first JPEG of the first shard."""
    path = manifest.path(0)
    data = bytearray(path.read_bytes())
    first = data.index(b"\xff\xd8\xff")
    data[first + data[first:].index(b"\xff\xd9") - 20] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_in_a_jpeg_is_damage(tmp_path: Path) -> None:
    """Without an index it is another image: what the index is for."""
    manifest = write_shards(tmp_path, [2], [SIZE], as_jpeg, indexed=True)
    whole = sample(manifest, 0)
    flip_bit_of_scene(manifest)
    with pytest.raises(DamageError, match=r"s000000: scene.jpg has not the checksum that the ind"):
        sample(manifest, 0)
    sample(manifest, 1)
    index_path(manifest.path(0)).unlink()
    assert not np.array_equal(sample(manifest, 0), whole)


def test_an_index_that_does_not_fit_is_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_shards(tmp_path, [3, 3], [SIZE] * 2, indexed=True)
    index = index_path(manifest.path(1))
    whole = index.read_bytes()
    other = "is damaged (it does not fit shard-001.tar)"
    for content, reason in {
        whole[:-9]: "is damaged",
        whole.replace(b"s000005.scene.png", b"s000006.scene.png"): other,
        whole.replace(b", 512, ", b", 99999999, ", 1): other,
        whole.replace(b'"anyscene-index"', b'"other"'): "is no index of this version",
        b"[]": "is damaged",
        index_path(manifest.path(0)).read_bytes(): "is the index of another shard-001.tar",
    }.items():
        caplog.clear()
        index.write_bytes(content)
        assert np.array_equal(sample(manifest, 1, shard=1), scene_of(4, SIZE))
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert caplog.messages[0].startswith(f"{index} {reason}")


def test_duplicate_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second sample of a key is damage, with an index or without."""
    manifest = write_shards(tmp_path, [3], [SIZE])
    samples = {key: members_of(0, "s000000", SIZE) for key in ("s000000", "s000001")}
    path = manifest.path(0)
    write_tar(path, samples | {"s000002": members_of(2, "s000002", SIZE)})
    path.write_bytes(path.read_bytes().replace(b"s000001.", b"s000000."))
    repair_checksums(path)
    sample(manifest, 0)
    with pytest.raises(DamageError, match="s000000: the key is there twice"):
        sample(manifest, 1)
    write_index(path, manifest.shards[0])
    with pytest.raises(DamageError, match="s000000: the key is there twice"):
        sample(manifest, 1)
    sample(manifest, 2)
    assert not caplog.records


def repair_checksums(path: Path) -> None:
    """Make the checksums of a tar's headers right again."""
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)


def test_an_empty_shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = write_shards(tmp_path, [3, 2], [SIZE] * 2)
    os.truncate(manifest.path(0), 0)
    with pytest.raises(DamageError, match="sample 1: the file ends after 0 of 3 samples"):
        sample(manifest, 1)
    assert "has 0 samples in its headers, its manifest says 3" in caplog.text


def test_a_member_of_another_sample(tmp_path: Path) -> None:
    def change(_: str, members: Members) -> Members:
        return members | {"meta.json": members["meta.json"].replace(b"s000001", b"s000007")}

    manifest = write_shards(tmp_path, [3], [SIZE], change)
    with pytest.raises(DamageError, match=r"s000001: meta.json is of 's000007'"):
        sample(manifest, 1)
