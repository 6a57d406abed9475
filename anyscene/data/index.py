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
    starts: list[int]  # first member of each sample, and the number of members
    suffixes: list[str]  # one a member, as the rest
    offsets: np.ndarray  # bytes
    sizes: np.ndarray  # bytes
    checksums: np.ndarray | None  # CRC-32; None without an index file

    @classmethod
    def of(cls, members: Iterable[Member]) -> "ShardIndex":
        """The index of members in the tar's order; a suffix that comes again begins a sample."""
        keys: list[str] = []
        starts: list[int] = []
        suffixes: list[str] = []
        spans: list[tuple[int, int]] = []
        checksums: list[int | None] = []
        for member in members:
            folder, slash, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            key = folder + slash + stem
            if not keys or key != keys[-1] or suffix in suffixes[starts[-1] :]:
                keys.append(key)
                starts.append(len(suffixes))
            suffixes.append(sys.intern(suffix))
            spans.append((member.offset, member.size))
            checksums.append(member.crc32)
        offsets, sizes = np.array(spans, np.int64).reshape(-1, 2).T
        known = None if None in checksums else np.array(checksums, np.uint32)
        return cls(keys, [*starts, len(suffixes)], suffixes, offsets, sizes, known)

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
            return cls.of(Member(*row) for row in values["members"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamageError(f"{path} is damaged ({error!r})") from None

    def members(self, sample: int) -> Iterator[tuple[str, int, int]]:
        """Suffix, offset and size of a sample's members."""
        for number in range(self.starts[sample], self.starts[sample + 1]):
            yield self.suffixes[number], int(self.offsets[number]), int(self.sizes[number])


def index_path(shard: Path) -> Path:
    """Where a shard's index lies."""
    return shard.with_name(shard.name + INDEX_SUFFIX)


def index_text(shard: Path, record: ShardRecord) -> str:
    """The content of the index file of a whole shard."""
    rows = []
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None, f"{member.name} is not a file"
            row = [member.name, member.offset_data, member.size, zlib.crc32(file.read())]
            rows.append(json.dumps(row))
    head = {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "bytes": record.bytes,
        "sha256": record.sha256,
    }
    members = ",\n".join(rows)
    return f'{json.dumps(head)[:-1]}, "members": [\n{members}\n]}}\n'


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
