"""What became of each item so far, so that a killed preparation can be continued.

`preparing.jsonl` has the arguments in its first line, then a line for each item in their order:
[bucket of its sample or null, {reason: how often something was left out}]. Whatever a kill, a full
disk or a lost machine leaves of the file, its whole lines are true of so many items, and where
their samples lie follows from them, see `data_prep.shards.ShardPlan`.
"""

import fcntl
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyscene.errors import InputError
from data_prep.shards import writing

RUNNING_NAME = "preparing.jsonl"


class Journal:
    """The journal of a folder, open for more lines, and closed to any other process."""

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` when another process has it open."""
        self.path = folder / RUNNING_NAME
        self.arguments: Mapping[str, Any] | None = None  # None: there is no whole line
        self.buckets: list[str | None] = []  # by item; None: no sample
        self.rejected: Counter[str] = Counter()
        with writing(self.path):
            self._file = self.path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"another process is preparing {folder}; let it end first") from None
        except OSError:
            pass  # a file system without locks
        self._read()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the disk may be full
            self._file.close()

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Forget what is there, and start with these arguments."""
        self.arguments, self.buckets, self.rejected = arguments, [], Counter()
        with writing(self.path):
            self._file.truncate(0)
        self._append(arguments)

    def add(self, bucket: str | None, rejected: Mapping[str, int]) -> None:
        """Note what became of the next item."""
        self._append([bucket, rejected])
        self.rejected.update(rejected)

    def _append(self, values: object) -> None:
        with writing(self.path):
            self._file.write(json.dumps(values, sort_keys=True).encode() + b"\n")
            self._file.flush()  # what the system has outlives the process

    def _read(self) -> None:
        """Take in the whole lines, and cut off what follows them."""
        length = 0
        for values, end in whole_lines(self.path):
            length = end
            if self.arguments is None:
                self.arguments = values
                continue
            bucket, rejected = values
            self.buckets.append(bucket and sys.intern(bucket))
            self.rejected.update(rejected)
        with writing(self.path):
            self._file.truncate(length)


def journal_arguments(folder: Path) -> Mapping[str, Any] | None:
    """The arguments of the unfinished preparation in a folder; None where they are not known."""
    path = folder / RUNNING_NAME
    return next((values for values, _ in whole_lines(path)), None) if path.is_file() else None


def whole_lines(path: Path) -> Iterator[tuple[Any, int]]:
    """The values of a file's lines and the bytes up to their end, before the first damaged one."""
    end = 0
    with path.open("rb") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                return
            end += len(line)
            if not line.endswith(b"\n"):
                return
            yield values, end
