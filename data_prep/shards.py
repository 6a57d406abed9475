"""Tar shards and their indexes, byte for byte the same however often they are made."""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyscene.data.index import Member, ShardIndex, index_path, index_text
from anyscene.data.sample import ShardRecord
from anyscene.errors import DamageError

PARTIAL = ".part"  # suffix of a file that is not finished


class ShardPlan:
    """Which shard each sample goes to, as a function of the buckets of the samples before it.

    A shard is of one bucket; shards are numbered in the order of their first sample.
    """

    def __init__(self, split: str, shard_samples: int) -> None:
        self.split = split
        self.shard_samples = shard_samples
        self.buckets: dict[str, str] = {}  # by shard
        self.samples: Counter[str] = Counter()  # by shard
        self._open: dict[str, str] = {}  # bucket -> its shard that has room

    def place(self, bucket: str) -> str:
        """The name of the next sample's shard."""
        if bucket not in self._open:
            name = f"{self.split}-{len(self.buckets):06d}.tar"
            self._open[bucket] = name
            self.buckets[name] = bucket
        name = self._open[bucket]
        self.samples[name] += 1
        if self.samples[name] == self.shard_samples:
            del self._open[bucket]
        return name


class ShardWriter:
    """Collects samples into the shards of a plan.

    webdataset's TarWriter writes the same, but its import brings torch into every process.
    """

    def __init__(self, folder: Path, split: str, shard_samples: int) -> None:
        self.folder = folder
        self.plan = ShardPlan(split, shard_samples)
        self.finished: dict[str, ShardRecord] = {}  # by name
        self._open: dict[str, ShardFile] = {}  # by name

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the open shards; after an error leave them under their partial names."""
        try:
            for name in list(self._open) if kind is None else ():
                self._finish(name)
        finally:
            for shard in self._open.values():
                shard.abandon()

    @property
    def records(self) -> list[ShardRecord]:
        """The finished shards by name."""
        return [self.finished[name] for name in sorted(self.finished)]

    def write(self, key: str, bucket: str, members: Mapping[str, bytes]) -> None:
        """Append one sample where the plan puts it; `members` by extension, such as `mask.png`.

        Raises `DamageError` where the disk is full or fails.
        """
        self.write_to(self.plan.place(bucket), key, members)

    def write_to(self, name: str, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample that the plan has put into the shard `name`."""
        if name not in self._open:
            self._open[name] = ShardFile(self.folder / name, self.plan.buckets[name])
        self._open[name].add(key, members)
        if self._open[name].samples == self.plan.shard_samples:
            self._finish(name)

    def _finish(self, name: str) -> None:
        self.finished[name] = self._open[name].finish()
        del self._open[name]


class ShardFile:
    """A tar file under its partial name, with what its record and its index will say of it.

    Everything raises `DamageError` where the disk is full or fails.
    """

    def __init__(self, path: Path, bucket: str) -> None:
        self.path = path
        self.bucket = bucket
        self.samples = 0
        self._members: list[Member] = []
        with writing(path):
            self._file = _HashedFile(partial_path(path))
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append one sample."""
        with writing(self.path):
            for extension in sorted(members):
                self._add(f"{key}.{extension}", members[extension])
        self.samples += 1

    def _add(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(name)  # by default no time, owner or group
        entry.size = len(data)
        offset = self._tar.offset + tarfile.BLOCKSIZE  # USTAR has one block before the bytes
        self._tar.addfile(entry, io.BytesIO(data))
        self._members.append(Member(name, offset, len(data), zlib.crc32(data)))

    def finish(self) -> ShardRecord:
        """Give index and tar their final names, the tar last: it is never without its index."""
        with writing(self.path):
            self._tar.close()
            length = self._file.tell()
            self._file.close()
            record = ShardRecord(
                name=self.path.name,
                samples=self.samples,
                bytes=length,
                sha256=self._file.sha256.hexdigest(),
                bucket=self.bucket,
            )
            write_whole(index_path(self.path), index_text(record, self._members))
            settle(self.path)
        return record

    def abandon(self) -> None:
        """Close the file and leave it under its partial name."""
        with suppress(OSError):  # the disk may be full
            self._file.close()


class _HashedFile(io.BufferedWriter):
    """A file with the checksum of what is written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return super().write(data)


def finished_record(path: Path, bucket: str) -> ShardRecord | None:
    """The record of a shard from its index; None unless both are there and belong together."""
    try:
        values = json.loads(index_path(path).read_bytes())
        samples = len(ShardIndex.of(Member(*row) for row in values["members"]).keys)
        if path.stat().st_size != values["bytes"]:
            return None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return ShardRecord(path.name, samples, values["bytes"], values["sha256"], bucket)


def read_samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard: key and members by extension, in the file's order.

    A member that is there twice begins a second sample of that key. Raises `tarfile.TarError`
    where the file is damaged.
    """
    key = ""
    members: dict[str, bytes] = {}
    with tarfile.open(path, "r:") as tar:
        for entry in tar:
            name, _, extension = entry.name.partition(".")
            file = tar.extractfile(entry)
            if file is None:
                raise tarfile.TarError(f"{entry.name} is not a file")
            if members and (name != key or extension in members):
                yield key, members
                members = {}
            key = name
            members[extension] = file.read()
    if members:
        yield key, members


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial_path(path: Path) -> Path:
    """Where a file lies until it is finished."""
    return path.with_name(path.name + PARTIAL)


def settle(path: Path) -> None:
    """Give a partial file its final name, once its bytes are on the disk."""
    with partial_path(path).open("rb") as file:
        os.fsync(file.fileno())
    partial_path(path).replace(path)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is never seen half-written."""
    partial_path(path).write_text(text)
    settle(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """One line that names the file, as `DamageError`, where the disk is full or fails."""
    try:
        yield
    except OSError as error:
        raise DamageError(
            f"{path} cannot be written: {error.strerror}; "
            "the same command continues once that is mended"
        ) from None
