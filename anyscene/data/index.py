"""Where the members of a shard's samples lie: `NAME.tar.index`, or else the tar's own headers.

An index is a JSON file: {format, version, bytes, sha256, members: [[name, offset, size, crc32]]},
one member a line, in the tar's order. `bytes` and `sha256` are the tar's, so that an index of
another file is never used. Only an index has checksums: a tar's headers protect themselves alone.
"""

import json
import sys
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anyscene.data.sample import ShardRecord
from anyscene.errors import DamageError

INDEX_SUFFIX = ".index"
INDEX_FORMAT = "anyscene-index"
INDEX_VERSION = 1


class Member(NamedTuple):
    """One file in a tar."""

    name: str
    offset: int  # of its bytes, in the tar
    size: int  # bytes
    crc32: int | None  # of its bytes; None: not known


@dataclass(frozen=True)
class ShardIndex:
    """Where the members of a shard's samples lie."""

    keys: list[str]
    starts: np.ndarray  # first member of each sample, and the number of members
    suffixes: list[str]  # one a member, as the rest
    offsets: np.ndarray  # bytes
    sizes: np.ndarray  # bytes
    checksums: np.ndarray | None  # CRC-32; None without an index file
    repeated: frozenset[int]  # samples whose key an earlier one has

    @classmethod
    def of(cls, members: Iterable[Member]) -> "ShardIndex":
        """The index of members in the tar's order; a suffix that comes again begins a sample.

        Raises ValueError, TypeError or AttributeError for rows that are not members.
        """
        keys: list[str] = []
        starts: list[int] = []
        suffixes: list[str] = []
        columns = list(zip(*members, strict=True)) or [(), (), (), ()]
        names, offsets, sizes, checksums = columns
        last = None
        for name in names:
            folder, slash, file = name.rpartition("/")
            stem, _, suffix = file.partition(".")
            key = folder + slash + stem
            if key != last or suffix in suffixes[starts[-1] :]:
                keys.append(key)
                starts.append(len(suffixes))
                last = key
            suffixes.append(sys.intern(suffix))
        starts.append(len(suffixes))
        known = None if None in checksums else np.array(checksums, np.uint32)
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
        repeated = frozenset(number for number, key in enumerate(keys) if first[key] < number)
        spans = np.array(offsets, np.int64), np.array(sizes, np.int64)
        return cls(keys, np.array(starts), suffixes, *spans, known, repeated)

    @classmethod
    def scan(cls, path: Path) -> "ShardIndex":
        """The index of a tar file, up to where its headers are damaged. Raises OSError."""
        return cls.of(
            Member(member.name, member.offset_data, member.size, None)
            for member in tar_members(path)
        )

    @classmethod
    def read(cls, path: Path, record: ShardRecord) -> "ShardIndex":
        """The index in a file, of the shard that `record` describes.

        Raises OSError, and `DamageError` where the file is damaged or of another shard.
        """
        try:
            values = json.loads(path.read_bytes())
            if values["format"] != INDEX_FORMAT or values["version"] != INDEX_VERSION:
                raise DamageError(f"{path} is no index of this version")
            if (values["bytes"], values["sha256"]) != (record.bytes, record.sha256):
                raise DamageError(f"{path} is the index of another {record.name}")
            index = cls.of(values["members"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamageError(f"{path} is damaged ({error!r})") from None
        if len(index.keys) != record.samples or not index.is_within(record.bytes):
            raise DamageError(f"{path} is damaged (it does not fit {record.name})")
        return index

    def is_within(self, size: int) -> bool:
        """Whether all members lie within a file of `size` bytes."""
        room = size - self.offsets
        return bool(((self.offsets >= 0) & (self.sizes >= 0) & (self.sizes <= room)).all())

    def members(self, sample: int) -> Iterator[tuple[str, int, int]]:
        """Suffix, offset and size of a sample's members."""
        for number in self._numbers(sample):
            yield self.suffixes[number], int(self.offsets[number]), int(self.sizes[number])

    def crc32(self, sample: int) -> dict[str, int]:
        """CRC-32 of a sample's members by suffix, {} where it is not known."""
        if self.checksums is None:
            return {}
        return {self.suffixes[n]: int(self.checksums[n]) for n in self._numbers(sample)}

    def _numbers(self, sample: int) -> range:
        return range(int(self.starts[sample]), int(self.starts[sample + 1]))


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(shard.name + INDEX_SUFFIX)


def index_text(record: ShardRecord, members: Iterable[Member]) -> str:
    """The content of a shard's index file, given its members in the tar's order."""
    head = {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "bytes": record.bytes,
        "sha256": record.sha256,
    }
    rows = ",\n".join(json.dumps(member) for member in members)
    return f'{json.dumps(head)[:-1]}, "members": [\n{rows}\n]}}\n'


def checked_members(shard: Path) -> Iterator[Member]:
    """The members of a tar file with their checksums, up to a damaged header. Raises OSError."""
    with shard.open("rb") as file:
        for member in tar_members(shard):
            file.seek(member.offset_data)
            crc32 = zlib.crc32(file.read(member.size))
            yield Member(member.name, member.offset_data, member.size, crc32)


def tar_members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files of a tar file, up to a damaged header. Raises OSError."""
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    if member.isreg():
                        yield member
        except tarfile.TarError:
            return
