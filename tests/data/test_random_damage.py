"""Random damage of shards and indexes: no crash, no hang, and nothing silent."""

import io
import logging
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import Members, png, scene_of, write_shards

from anyscene.data.mixing import make_order
from anyscene.data.sample import HostBatch, ShardManifest
from anyscene.data.shards import train_pipeline
from anyscene.data.stream import Share

SIZE = (16, 16)
SHARD = "shard-001.tar"
NO_INDEX = {f"shard-{number:03d}.tar.index": None for number in range(2)}
KEYS = [f"s{number:06d}" for number in range(12)]
BATCHES = 9
"""Batches of four read from twelve samples: three epochs."""


def jpeg_or_png(key: str, members: Members) -> Members:
    """Every other scene as a JPEG, every mask another one."""
    number = int(key[1:])
    mask = np.zeros(SIZE, np.uint8)
    mask[number : number + 4, 2:12] = 255
    members |= {"mask.png": png(mask), "elements.png": png(mask // 255)}
    if number % 2:
        del members["scene.png"]
        bgr = cv2.cvtColor(scene_of(number, SIZE), cv2.COLOR_RGB2BGR)
        members = {"scene.jpg": cv2.imencode(".jpg", bgr)[1].tobytes(), **members}
    return members


def read(manifest: ShardManifest) -> list[HostBatch]:
    order = make_order(manifest, seed=1, batch_size=4, shuffle_window=8)
    return list(islice(train_pipeline(manifest, order, Share(), 0), BATCHES))


def pixels(batches: list[HostBatch]) -> dict[str, tuple[bytes, bytes, bytes]]:
    """Scene, mask and elements of each sample by key."""
    found: dict[str, tuple[bytes, bytes, bytes]] = {}
    names = ("scene_uint8", "mask_uint8", "elements_uint8")
    for batch in batches:
        for number, key in enumerate(batch["key"]):
            images = tuple(batch[name][number].numpy().tobytes() for name in names)
            assert found.setdefault(key, images) == images  # type: ignore[arg-type]
    return found


with tempfile.TemporaryDirectory() as folder:
    whole = write_shards(Path(folder), [6, 6], [SIZE, SIZE], jpeg_or_png, indexed=True)
    FILES = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    WHOLE_BATCHES = read(whole)
    ORIGINALS = pixels(WHOLE_BATCHES)


@contextmanager
def shards_with(files: Mapping[str, bytes | None]) -> Iterator[ShardManifest]:
    """A folder of the whole shards, some of its files replaced, or left out with None."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in {**FILES, **files}.items():
            if data is not None:
                (Path(folder) / name).write_bytes(data)
        yield ShardManifest.read(folder)


class Warnings(logging.Handler):
    """Collects what the reader warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def read_damaged(files: Mapping[str, bytes | None]) -> tuple[list[HostBatch], list[str]]:
    """Batches and warnings; every sample that came is as it was before the damage."""
    warnings = Warnings()
    logger = logging.getLogger("anyscene.data.reader")
    logger.addHandler(warnings)
    try:
        with shards_with(files) as manifest:
            batches = read(manifest)
    finally:
        logger.removeHandler(warnings)
    assert [len(batch["key"]) for batch in batches] == [4] * BATCHES
    for key, images in pixels(batches).items():
        assert images == ORIGINALS[key]
    return batches, warnings.lines


def assert_replacements_are_counted(batches: list[HostBatch]) -> None:
    """A batch differs from the one of whole shards in no more slots than it has damage."""
    for batch, expected in zip(batches, WHOLE_BATCHES, strict=True):
        pairs = zip(batch["key"], expected["key"], strict=True)
        different = [pair for pair in pairs if pair[0] != pair[1]]
        assert len(different) <= batch["replaced"] == len(batch["damage"])
        assert all("shard-001.tar, s" in line for line in batch["damage"])


def assert_nothing_is_silent(batches: list[HostBatch], warnings: list[str]) -> None:
    """An epoch misses no more samples than it has damage; or the shard's number of samples is not
    the manifest's, which is warned of. Damaged headers may number the samples otherwise."""
    if warnings:
        assert any(SHARD in line for line in warnings)
        return
    for first in range(0, BATCHES, 3):
        epoch = batches[first : first + 3]
        missed = set(KEYS) - {key for batch in epoch for key in batch["key"]}
        assert len(missed) <= sum(len(batch["damage"]) for batch in epoch)


places = st.floats(0, 1, exclude_max=True)
flips = st.lists(st.tuples(places, st.integers(1, 255)), max_size=40)
zeros = st.lists(st.tuples(places, st.integers(1, 2000)), max_size=2)
kept_shares = st.one_of(st.just(1.0), st.floats(0, 1))


def damaged(
    data: bytes, flips: list[tuple[float, int]], zeros: list[tuple[float, int]], kept: float
) -> bytes:
    """Bytes changed, runs of zeros, and the end cut off."""
    changed = bytearray(data)
    for place, change in flips:
        changed[int(place * len(data))] ^= change
    for place, length in zeros:
        first = int(place * len(data))
        changed[first : first + length] = bytes(len(changed[first : first + length]))
    return bytes(changed[: int(kept * len(data))])


@settings(max_examples=60, deadline=None)
@given(flips, zeros, kept_shares)
def test_random_bytes_of_a_shard_with_an_index(
    flips: list[tuple[float, int]], zeros: list[tuple[float, int]], kept: float
) -> None:
    batches, _ = read_damaged({SHARD: damaged(FILES[SHARD], flips, zeros, kept)})
    assert_replacements_are_counted(batches)


@settings(max_examples=60, deadline=None)
@given(flips, zeros, kept_shares)
def test_random_bytes_of_a_shard_without_an_index(
    flips: list[tuple[float, int]], zeros: list[tuple[float, int]], kept: float
) -> None:
    """But those of JPEG members, which do not reveal a changed pixel."""
    data = bytearray(damaged(FILES[SHARD], flips, zeros, kept))
    with tarfile.open(fileobj=io.BytesIO(FILES[SHARD])) as tar:
        for member in tar:
            if member.name.endswith("jpg"):
                first, end = member.offset_data, member.offset_data + member.size
                data[first:end] = FILES[SHARD][first:end][: len(data[first:end])]
    batches, warnings = read_damaged({SHARD: bytes(data), **NO_INDEX})
    assert_nothing_is_silent(batches, warnings)


@settings(max_examples=60, deadline=None)
@given(flips, zeros, kept_shares)
def test_random_bytes_of_an_index(
    flips: list[tuple[float, int]], zeros: list[tuple[float, int]], kept: float
) -> None:
    index = f"{SHARD}.index"
    batches, warnings = read_damaged({index: damaged(FILES[index], flips, zeros, kept)})
    assert_replacements_are_counted(batches)
    if kept < 0.9:
        assert any(index in line for line in warnings)


numbers = st.integers(0, 23)
moves = st.lists(
    st.one_of(
        st.tuples(st.just("drop"), numbers, numbers),
        st.tuples(st.just("repeat"), numbers, numbers),
        st.tuples(st.just("move"), numbers, numbers),
    ),
    max_size=4,
)
names = st.tuples(
    numbers, st.sampled_from(KEYS), st.sampled_from(["mask.png", "scene.png", "meta.json", "other"])
)


def rearranged(moves: list[tuple[str, int, int]], name: tuple[int, str, str] | None) -> bytes:
    """The shard with members dropped, repeated, moved, and one renamed."""
    with tarfile.open(fileobj=io.BytesIO(FILES[SHARD])) as tar:
        members = [(entry.name, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    if name is not None:
        number, key, suffix = name
        members[number] = f"{key}.{suffix}", members[number][1]
    for kind, one, other in moves:
        one, other = one % len(members), other % len(members)
        if kind == "repeat":
            members.insert(other, members[one])
        elif kind == "move":
            members.insert(other, members.pop(one))
        elif len(members) > 1:
            members.pop(one)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in members:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


@settings(max_examples=80, deadline=None)
@given(moves, st.one_of(st.none(), names), st.booleans())
def test_random_rearrangement_of_members(
    moves: list[tuple[str, int, int]], name: tuple[int, str, str] | None, indexed: bool
) -> None:
    files = {SHARD: rearranged(moves, name)}
    batches, warnings = read_damaged(files if indexed else files | NO_INDEX)
    if indexed:
        assert_replacements_are_counted(batches)
    else:
        assert_nothing_is_silent(batches, warnings)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(numbers, st.integers(0, 499), st.binary(min_size=1, max_size=12))))
def test_random_headers_with_the_right_checksum(headers: list[tuple[int, int, bytes]]) -> None:
    """Other names, sizes, kinds of members; an index does not depend on them."""
    data = bytearray(FILES[SHARD])
    with tarfile.open(fileobj=io.BytesIO(FILES[SHARD])) as tar:
        offsets = [member.offset for member in tar]
    for number, place, change in headers:
        at = offsets[number]
        data[at + place : at + place + len(change)] = change
        data[at + 148 : at + 156] = b" " * 8
        data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    batches, _ = read_damaged({SHARD: bytes(data)})
    assert_replacements_are_counted(batches)
    batches, warnings = read_damaged({SHARD: bytes(data), **NO_INDEX})
    assert_nothing_is_silent(batches, warnings)
