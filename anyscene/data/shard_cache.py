"""Fetched shards on the local disk, shared by all processes of a node, within a bound of bytes.

A shard lies under its checksum, so that it is known whatever data set or URL it came from. A file
lock lets one process fetch while the others wait; the rename at its end makes the shard visible
whole. The one asked for longest ago is removed first; a process that has it open reads on.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock

from anyscene.data.fetching import fetch
from anyscene.data.index import checked_members, index_path, index_text
from anyscene.data.sample import ShardRecord
from anyscene.errors import DamageError, InputError
from anyscene.files import replace_file, sha256_of

STALE_SECONDS = 3600
"""Age after which an unfinished file is that of a process that was killed."""


@dataclass(frozen=True)
class ShardCache:
    """A folder of fetched shards. The bound holds for finished ones, beside those under way."""

    folder: Path
    limit_bytes: int

    def path(self, location: str, record: ShardRecord) -> Path:
        """Where a shard of a remote folder lies, fetched if need be, with an index.

        Raises `InputError` where it cannot be fetched, or is larger than the whole cache.
        """
        path = self.folder / f"{record.sha256}.tar"
        if not _use(path):
            self._check_limit(location, record)
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not _use(path):
                    self._fetch(location, record, path)
        return path

    def _check_limit(self, location: str, record: ShardRecord) -> None:
        if record.bytes > self.limit_bytes:
            raise InputError(
                f"{record.name} of {location!r} has {record.bytes / 1e9:.3g} GB, more than "
                f"data.cache_gb={self.limit_bytes / 1e9:g} holds; raise data.cache_gb"
            )

    def _fetch(self, location: str, record: ShardRecord, path: Path) -> None:
        self.make_room(record.bytes)
        try:
            fetch(location, record.name, path, partial(check_and_index, record, index_path(path)))
        except FileNotFoundError:
            raise InputError(
                f"{record.name} of {location!r} does not exist, but the manifest there names it"
            ) from None

    def make_room(self, size: int) -> None:
        """Remove shards, those asked for longest ago first, until `size` more bytes fit."""
        with FileLock(self.folder / "room.lock"):
            found = sorted(_files(self.folder))
            used = sum(file_bytes for _, file_bytes, _ in found)
            for used_at, file_bytes, path in found:
                if path.suffix != ".tar" and used_at > time.time() - STALE_SECONDS:
                    continue  # being fetched
                if used + size <= self.limit_bytes:
                    break
                for file in (path, index_path(path), path.with_suffix(".lock")):
                    file.unlink(missing_ok=True)
                used -= file_bytes


def check_and_index(record: ShardRecord, index: Path, fetched: Path) -> None:
    """Write the index of the shard in a fetched file.

    Raises `DamageError` where it is not the shard that the manifest describes.
    """
    size = fetched.stat().st_size
    if size != record.bytes:
        raise DamageError(f"{size} bytes came, {record.bytes} are in the manifest")
    if (sha256 := sha256_of(fetched)) != record.sha256:
        raise DamageError(f"its sha256 is {sha256}, {record.sha256} in the manifest")
    text = index_text(record, checked_members(fetched))
    replace_file(index, lambda part: part.write_text(text))


def _use(path: Path) -> bool:
    """Whether a shard is there; if so it counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """When each shard or unfinished file was last used, its bytes and its path."""
    for path in folder.iterdir():
        if path.suffix in (".tar", ".part"):
            with suppress(FileNotFoundError):  # another process has just removed or finished it
                status = path.stat()
                yield status.st_mtime, status.st_size, path
