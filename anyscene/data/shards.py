"""Batches out of tar shards: a list of stages, and random access to the samples of a shard.

A shard is a local tar file when it is read. Its headers are scanned once a process, and from then
on any sample is one positioned read, so that the order can be any function of the position and
nothing is read to be skipped.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from torch.utils.data import get_worker_info
from webdataset.pipeline import DataPipeline

from anyscene.data.index import ShardIndex
from anyscene.data.sample import HostBatch, ShardManifest
from anyscene.data.stream import (
    Order,
    Purpose,
    Share,
    Slot,
    random_words,
    train_micro_batches,
    validation_batches,
)
from anyscene.data.transforms import Loaded, Sample, StreamItem, collate, decode
from anyscene.errors import AnySceneError, DamageError, InputError

OPEN_FILES = 64
"""Shards held open by a process."""

KNOWN_INDEXES = 1024
"""Shards whose index a process remembers: about 200 bytes a sample."""

READ_TRIES = 3
RETRY_SECONDS = 0.2
"""Wait before the second try; each further one waits four times as long."""

REPLACEMENT_TRIES = 32
"""Samples tried for one slot before its bucket is given up."""

Value = TypeVar("Value")
Replacement = Callable[[Slot, int], Slot]
"""Another slot for (slot, attempt), see `Order.replacement`."""


def train_pipeline(
    manifest: ShardManifest, order: Order, share: Share, start_step: int
) -> DataPipeline:
    """`StreamItem`s: a rank's micro-batches from an optimizer step on, without end."""
    return DataPipeline(
        partial(train_slots, order, share, start_step),  # where the next samples are
        partial(load, manifest, order.replacement),  # their members, decoded; damaged ones replaced
        partial(choose_captions, order.seed),
        collate,
        hand_over_errors,
    )


def validation_pipeline(
    manifest: ShardManifest, share: Share, limit: int, batch_size: int
) -> DataPipeline:
    """`StreamItem`s: a rank's share of the first `limit` samples, each once, in order.

    A damaged sample is left out.
    """
    return DataPipeline(
        partial(validation_slots, validation_batches(manifest, share, limit, batch_size)),
        partial(load, manifest, None),
        first_captions,
        collate,
        hand_over_errors,
    )


def read_batches(manifest: ShardManifest, limit: int, batch_size: int = 64) -> list[HostBatch]:
    """The first `limit` samples in this process, without the damaged ones.

    Raises `InputError` where none is whole or they are of several sizes.
    """
    batches: list[HostBatch] = []
    for item in validation_pipeline(manifest, Share(), limit, batch_size):
        if isinstance(item, Exception):
            raise item
        if not isinstance(item, list):  # a list is the damage of a batch of which nothing is left
            batches.append(item)
    sizes = {tuple(batch["scene_uint8"].shape[2:]) for batch in batches}
    if len(sizes) != 1:
        raise InputError(
            f"{str(manifest.root)!r} has samples of {len(sizes)} sizes; one size is needed here"
            if sizes
            else f"{str(manifest.root)!r} has no whole sample; see `anyscene prepare verify`"
        )
    return batches


def train_slots(order: Order, share: Share, start_step: int) -> Iterator[list[Slot]]:
    """The micro-batches of this loader worker."""
    return train_micro_batches(order, share, start_step, *_worker())


def validation_slots(batches: list[list[Slot]]) -> Iterator[list[Slot]]:
    """The validation batches of this loader worker."""
    worker, workers = _worker()
    return iter(batches[worker::workers])


def _worker() -> tuple[int, int]:
    """Number of this loader worker, and how many there are."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def load(
    manifest: ShardManifest,
    replacement: Replacement | None,
    batches: Iterable[list[Slot]],
) -> Iterator[Loaded]:
    """Read and decode. A damaged sample is replaced by `replacement(slot, attempt)`, or left out.

    Raises `DamageError` where no replacement is whole.
    """
    with closing(ShardReader(manifest)) as reader:
        for slots in batches:
            loaded = Loaded([], [])
            for slot in slots:
                load_one(reader, slot, replacement, loaded)
            yield loaded


def load_one(
    reader: "ShardReader", slot: Slot, replacement: Replacement | None, loaded: Loaded
) -> None:
    """Add the sample of a slot, or else its replacement, to `loaded`."""
    candidate = slot
    for attempt in range(1, REPLACEMENT_TRIES + 1):
        try:
            loaded.samples.append(reader.sample(candidate))
            return
        except DamageError as error:
            loaded.damage.append(str(error))
        if replacement is None:
            return
        candidate = replacement(slot, attempt)
    raise DamageError(
        f"{REPLACEMENT_TRIES} samples in a row are damaged, the last one: {loaded.damage[-1]}; "
        "check the shards with `anyscene prepare verify`"
    )


def choose_captions(seed: int, batches: Iterable[Loaded]) -> Iterator[Loaded]:
    """One of each sample's captions, a function of (seed, slot)."""
    for batch in batches:
        for sample in batch.samples:
            captions = sample.meta["captions"]
            word = random_words(seed, Purpose.caption, (sample.slot.counter,), 1)[0]
            sample.prompt = captions[int(word) % len(captions)]
        yield batch


def first_captions(batches: Iterable[Loaded]) -> Iterator[Loaded]:
    """Each sample's first caption."""
    for batch in batches:
        for sample in batch.samples:
            sample.prompt = sample.meta["captions"][0]
        yield batch


def hand_over_errors(batches: Iterable[StreamItem]) -> Iterator[StreamItem]:
    """Give an error that ends the stream to the training process as a last item, in one line."""
    try:
        yield from batches
    except (AnySceneError, DamageError) as error:
        yield error


class ShardReader:
    """Random access to the samples of a shard folder, for one process."""

    def __init__(self, manifest: ShardManifest):
        self.manifest = manifest
        self.sizes = [tuple(map(int, shard.bucket.split("x"))) for shard in manifest.shards]
        self.files: OrderedDict[int, int] = OrderedDict()  # shard number -> file descriptor
        self.index = lru_cache(KNOWN_INDEXES)(self._scan)

    def sample(self, slot: Slot) -> Sample:
        """A decoded sample.

        Raises `DamageError`, which names shard and key; `InputError` where the file cannot be read.
        """
        record = self.manifest.shards[slot.shard]
        path = self.manifest.root / record.name
        index = with_retries(path, partial(self.index, slot.shard))
        if slot.sample >= len(index.keys):
            raise DamageError(
                f"{record.name}, sample {slot.sample}: the file ends after {len(index.keys)} of "
                f"{record.samples} samples"
            )
        try:
            members = with_retries(path, partial(self._members, slot, index))
            return decode(slot, index.keys[slot.sample], members, self.sizes[slot.shard])
        except DamageError as error:
            raise DamageError(f"{record.name}, {index.keys[slot.sample]}: {error}") from None

    def _scan(self, shard: int) -> ShardIndex:
        return ShardIndex.scan(self.manifest.root / self.manifest.shards[shard].name)

    def _members(self, slot: Slot, index: ShardIndex) -> dict[str, bytes]:
        spans = list(index.members(slot.sample))  # neighbours in the file: one read for all
        first = spans[0][1]
        end = spans[-1][1] + spans[-1][2]
        data = read_exactly(self._open(slot.shard), first, end - first)
        return {suffix: data[at - first : at - first + size] for suffix, at, size in spans}

    def _open(self, shard: int) -> int:
        """The descriptor of a shard's file; the one used longest ago is closed for it."""
        if shard not in self.files:
            if len(self.files) == OPEN_FILES:
                os.close(self.files.popitem(last=False)[1])
            self.files[shard] = os.open(
                self.manifest.root / self.manifest.shards[shard].name, os.O_RDONLY
            )
        self.files.move_to_end(shard)
        return self.files[shard]

    def close(self) -> None:
        """Close all files."""
        while self.files:
            os.close(self.files.popitem()[1])


def read_exactly(file: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of an open file. Raises `DamageError` where it ends before."""
    if offset + size > os.fstat(file).st_size:
        raise DamageError("the file ends within it")
    data = os.pread(file, size, offset)
    if len(data) < size:
        raise OSError("short read")
    return data


def with_retries(path: Path, read: Callable[[], Value]) -> Value:
    """`read()`, tried again after an I/O error. Raises `InputError` after the last try."""
    for attempt in range(READ_TRIES):
        try:
            return read()
        except OSError as error:
            if attempt == READ_TRIES - 1:
                raise InputError(
                    f"{path} cannot be read after {READ_TRIES} tries: {error.strerror or error}"
                ) from None
            time.sleep(RETRY_SECONDS * 4**attempt)
    raise AssertionError("READ_TRIES must be at least 1")
