"""Atomic files and checksums: a reader sees a whole file or none. No torch here."""

import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyscene.errors import InputError

PASSING = frozenset(
    {errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN}
)
"""What a network file system says when it is not well."""


def part_of(path: Path) -> Path:
    """A temporary name beside `path` that is nobody else's: not another thread's, nor that of a
    process of the same number on another node. Not `tempfile`'s file, which its owner alone reads.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk and rename it to `path`."""
    temporary = part_of(path)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Errors of writing, such as that of a full disk, which names no file, say which one it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def told_as_mistake(folder: Path) -> Iterator[None]:
    """Raises `InputError` with the file, or else the folder, and why the disk refuses it; `OSError`
    where that may pass, so that a job's next start does not meet it."""
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            error.filename = error.filename or str(folder)
            raise
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from None


def keep_first(path: Path, content: bytes) -> None:
    """Write a whole file, unless there is one: of two processes that make it the first one's stays.

    On a file system without hard links the last one's does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = part_of(path)
    try:
        temporary.write_bytes(content)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or none, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_in_errors(path):
        replace_file(path, lambda part: part.write_bytes(content))


def sha256_of(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Canonical JSON, atomically; numbers that are not finite, which JSON has not, become null."""
    text = json.dumps(_finite(values), indent=1, sort_keys=True, allow_nan=False) + "\n"
    with named_in_errors(path):
        replace_file(path, lambda part: part.write_text(text))


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(own) for key, own in value.items()}
        case list() | tuple():
            return [_finite(own) for own in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


@contextmanager
def sole_use(lock: Path) -> Iterator[None]:
    """One process at a time, by a lock on a file; it goes with the process, however that ends."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{lock.parent}: another process works in it; waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
