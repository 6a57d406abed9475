"""Random access to the samples of shards, for one process.

A shard is a local tar file when it is read. Its index says where each sample lies; where there is
none the headers are scanned, once a process. From then on any sample is one positioned read, so
that the order can be any function of the position and nothing is read to be skipped. Reads are
copies, not maps: a worker's memory then does not seem to grow with the page cache.
"""

import logging
import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar

from anyscene.data.damage import check_image_sizes
from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sources import Shards
from anyscene.data.stream import Slot
from anyscene.data.transforms import Sample, decode
from anyscene.errors import DamageError, InputError

log = logging.getLogger(__name__)

OPEN_FILES = 64
"""Shards held open by a process."""

KNOWN_INDEXES = 400
"""Shards whose index a process remembers: about 200 bytes a sample, 80 MB for shards of 1000."""

LARGEST_SAMPLE = 2**27
"""Bytes from the first to the last member of a sample; more is a damaged header."""

READ_TRIES = 3
RETRY_SECONDS = 0.2
"""Wait before the second try; each further one waits four times as long."""

Value = TypeVar("Value")


class ShardReader:
    """Random access to the samples of shards. Close it at the end."""

    def __init__(self, shards: Shards):
        self.shards = shards
        self.files: OrderedDict[int, int] = OrderedDict()  # shard number -> file descriptor
        self.index = lru_cache(KNOWN_INDEXES)(self._read_index)

    def sample(self, slot: Slot) -> Sample:
        """As `read`, without the members."""
        return self.read(slot)[0]

    def read(self, slot: Slot) -> tuple[Sample, dict[str, bytes]]:
        """A decoded sample, and its members as they are stored, by suffix.

        Raises `DamageError`, which names shard and key; `InputError` where the file cannot be read.
        """
        record = self.shards.shards[slot.shard]
        index = self._with_retries(slot.shard, self.index)
        if slot.sample >= len(index.keys):
            raise DamageError(
                f"{record.name}, sample {slot.sample}: the file ends after {len(index.keys)} of "
                f"{record.samples} samples"
            )
        key = index.keys[slot.sample]
        try:
            members = self._with_retries(slot.shard, partial(self._members, index, slot.sample))
            return self._decode(slot, key, members), members
        except DamageError as error:
            raise DamageError(f"{record.name}, {key}: {error}") from None

    def _decode(self, slot: Slot, key: str, members: dict[str, bytes]) -> Sample:
        size = tuple(map(int, self.shards.shards[slot.shard].bucket.split("x")))
        check_image_sizes(members, size)
        sample = decode(slot, key, members, size, self.shards.latent_shape(size))
        if (stated := sample.meta.get("key")) != key:
            raise DamageError(f"meta.json is of {stated!r}")
        return sample

    def _members(self, index: ShardIndex, sample: int, shard: int) -> dict[str, bytes]:
        if sample in index.repeated:
            raise DamageError("the key is there twice")
        spans = list(index.members(sample))  # neighbours in the file: one read for all
        first = min(at for _, at, _ in spans)
        length = max(at + size for _, at, size in spans) - first
        if length > LARGEST_SAMPLE:
            raise DamageError(f"its members are spread over {length} bytes")
        data = read_exactly(self._open(shard), first, length)
        members = {suffix: data[at - first : at - first + size] for suffix, at, size in spans}
        for suffix, expected in index.crc32(sample).items():
            if zlib.crc32(members[suffix]) != expected:
                raise DamageError(f"{suffix} has not the checksum that the index has")
        return members

    def _read_index(self, shard: int) -> ShardIndex:
        """The index beside a shard, or else that of its headers; what is wrong is logged."""
        record, path = self.shards.shards[shard], self.shards.path(shard)
        stored = index_path(path)
        if stored.is_file():
            try:
                return ShardIndex.read(stored, record)
            except DamageError as error:
                log.warning("%s: it is not used; make the shard again", error)
        index = ShardIndex.scan(path)
        if len(index.keys) != record.samples:
            log.warning(
                "%s has %d samples in its headers, its manifest says %d; see `anyscene prepare "
                "verify`",
                path,
                len(index.keys),
                record.samples,
            )
        return index

    def _open(self, shard: int) -> int:
        """The descriptor of a shard's file; the one used longest ago is closed for it."""
        if shard not in self.files:
            if len(self.files) == OPEN_FILES:
                os.close(self.files.popitem(last=False)[1])
            self.files[shard] = os.open(self.shards.path(shard), os.O_RDONLY)
        self.files.move_to_end(shard)
        return self.files[shard]

    def _with_retries(self, shard: int, read: Callable[[int], Value]) -> Value:
        """`read(shard)`, tried again after an I/O error, with the file opened anew: an NFS handle
        that is stale once stays so. Raises `InputError` after the last try."""
        for attempt in range(READ_TRIES):
            try:
                return read(shard)
            except OSError as error:
                if shard in self.files:
                    os.close(self.files.pop(shard))
                if attempt == READ_TRIES - 1:
                    raise InputError(
                        f"{self.shards.shards[shard].name} of {self.shards.location!r} cannot be "
                        f"read after {READ_TRIES} tries: {error.strerror or error}"
                    ) from None
                time.sleep(RETRY_SECONDS * 4**attempt)
        raise AssertionError("READ_TRIES must be at least 1")

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
