"""Tar shards, byte for byte the same however often they are made."""

import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from anyscene.data.sample import ShardRecord

PARTIAL = ".part"  # suffix of a file that is not finished


class ShardWriter:
    """Collects samples into shards of one bucket each, numbered in the order of their first sample.

    webdataset's TarWriter writes the same, but its import brings torch into every process.
    """

    def __init__(self, folder: Path, split: str, shard_samples: int) -> None:
        self.folder = folder
        self.split = split
        self.shard_samples = shard_samples
        self.records: list[ShardRecord] = []  # of the finished shards, by name
        self.open: dict[str, tuple[Path, tarfile.TarFile]] = {}  # bucket -> its shard
        self.samples: Counter[Path] = Counter()  # by shard

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the open shards; after an error leave them under their partial names."""
        for bucket, (_path, tar) in list(self.open.items()):
            if kind is None:
                self._finish(bucket)
            else:
                tar.close()

    def write(self, key: str, bucket: str, members: Mapping[str, bytes]) -> None:
        """Append one sample; `members` by extension, such as `mask.png`."""
        if bucket not in self.open:
            path = self.folder / f"{self.split}-{len(self.samples):06d}.tar"
            tar = tarfile.open(partial_path(path), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self.open[bucket] = path, tar
        path, tar = self.open[bucket]
        for extension in sorted(members):
            entry = tarfile.TarInfo(f"{key}.{extension}")  # by default no time, owner or group
            entry.size = len(members[extension])
            tar.addfile(entry, io.BytesIO(members[extension]))
        self.samples[path] += 1
        if self.samples[path] == self.shard_samples:
            self._finish(bucket)

    def _finish(self, bucket: str) -> None:
        path, tar = self.open.pop(bucket)
        tar.close()
        settle(path)
        record = ShardRecord(
            name=path.name,
            samples=self.samples[path],
            bytes=path.stat().st_size,
            sha256=file_sha256(path),
            bucket=bucket,
        )
        self.records = sorted([*self.records, record], key=lambda record: record.name)


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
