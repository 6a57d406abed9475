"""Atomic, checksummed files: a reader sees a whole file or none."""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import distributed

from anyscene.errors import DamageError, InputError
from anyscene.files import replace_file, sha256_of, write_json
from anyscene.preemption import note_progress
from anyscene.ranks import node_name
from anyscene.records import checkpoint_record, is_finished
from anyscene.sharded_checkpoint import (
    LateShareError,
    join_shares,
    sha256_of_shares,
    share_name,
    shares_of,
    tell_failure,
    wait_for_others,
    wait_for_shares,
)
from anyscene.snapshot import Snapshot

PATTERN = "step-" + "[0-9]" * 8 + ".ckpt"
SHARE_SECONDS = 300
"""How long the first rank waits for the share of one that does not tell that it cannot write."""


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints, written atomically with a `.json` of step, size and checksum.

    A crash leaves the checkpoint before this one untouched. The JSON comes last: a checkpoint
    without it was never finished. A thread copies the tensors to memory and writes the copy, so
    that training goes on meanwhile: `wait_for_copy` must be called before what was given is
    changed. Only one is written at a time. Then all but the newest `keep` of the folder go.

    With `share`, a rank and the number of ranks, each rank saves its share into a folder of the
    checkpoint's name, and the first rank writes the JSON when all are there.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.share: tuple[int, int] | None = None
        self.writer: Thread | None = None
        self.copied = Event()
        self.copied.set()
        self.failure: str | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if storage_options is not None:
            raise TypeError("storage_options are not supported")
        self._join()
        snapshot = Snapshot(checkpoint)
        self.copied.clear()
        self.writer = Thread(target=self._write, args=(snapshot, Path(path)))
        self.writer.start()

    def wait_for_copy(self) -> None:
        """Until the tensors of the last checkpoint may be changed."""
        self.copied.wait()

    def _write(self, snapshot: Snapshot, path: Path) -> None:
        try:
            try:
                checkpoint = snapshot.in_memory()
            finally:
                self.copied.set()
            if self.share is None:
                write_checkpoint(checkpoint, path)
            else:
                write_share(checkpoint, path, *self.share)
        except Exception as error:  # whatever it is: nobody but `finish` can tell it
            self._give_up(path, error)
            return
        self.failure = None
        if self.share is not None and self.share[0] > 0:
            return
        note_progress()
        try:
            self._remove_old(path)
        except OSError as error:
            print(f"WARNING: {error}: old checkpoints stay until the next one", file=sys.stderr)

    def _give_up(self, path: Path, error: Exception) -> None:
        """Say what failed and where, to the user and to the first rank, and make room again."""
        self.failure = str(error) or type(error).__name__
        if self.share is not None and not isinstance(error, DamageError):
            self.failure = f"rank {self.share[0]} on {node_name()}: {self.failure}"
        print(
            f"WARNING: {path} could not be written ({self.failure}); the run goes on, and the "
            "checkpoint before is kept",
            file=sys.stderr,
        )
        with suppress(OSError):  # the next checkpoint takes away what stays
            self._remove_unfinished(path, self.failure, late=isinstance(error, LateShareError))

    def _remove_unfinished(self, path: Path, reason: str, *, late: bool) -> None:
        """Each rank removes its share, and the first one the folder, once the others have written
        theirs, or have said that they cannot, or have had the time for it."""
        if self.share is None:
            if not is_finished(path):
                path.unlink(missing_ok=True)
            return
        rank, ranks = self.share
        remove_checkpoint(path / share_name(rank, ranks))
        if rank > 0:
            tell_failure(path, rank, ranks, reason)  # there is room for it now
            return
        if not late:
            wait_for_others(path, ranks, SHARE_SECONDS)
        remove_checkpoint(path)

    def _remove_old(self, newest: Path) -> None:
        """All but the newest `keep` finished ones; and of earlier ones shares that came too late
        and files whose record a killed removal has taken: nobody writes these any more."""
        found = [saved for saved in checkpoints(newest.parent) if saved <= newest]
        finished = [path for path in found if is_finished(path)]
        for old in [*finished[self.keep :], *(set(found) - set(finished))]:
            remove_checkpoint(old)

    def failures(self) -> list[str]:
        """Wait for the last checkpoint; why it is not on the disk, each reason once, [] if it is.
        All ranks ask, and get the same answer."""
        self._join()
        told = [self.failure]
        if distributed.is_initialized():
            told = [None] * distributed.get_world_size()
            distributed.all_gather_object(told, self.failure)
        return list(dict.fromkeys(filter(None, told)))

    def finish(self) -> None:
        """Wait until the last checkpoint is on the disk; all ranks do so.

        Raises `DamageError`, the same on all of them, if it is not.
        """
        if failures := self.failures():
            raise DamageError(
                f"the last checkpoint could not be written ({'; '.join(failures)}); make room, and "
                "the same command goes on from the checkpoint before"
            )

    def _join(self) -> None:
        if self.writer is not None:
            self.writer.join()
            self.writer = None

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        check_checkpoint(Path(path))
        if Path(path).is_dir():
            return read_checkpoint(Path(path))
        return torch.load(path, map_location=map_location or "cpu", weights_only=weights_only)

    def remove_checkpoint(self, path: Any) -> None:
        remove_checkpoint(Path(path))

    def teardown(self) -> None:
        """Let the writer end, whatever ended the training."""
        self._join()


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """The file, then its record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda part: _save(checkpoint, part))
    record = {
        "step": checkpoint["global_step"],
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }
    write_json(path.with_suffix(".json"), record)


def write_share(checkpoint: dict[str, Any], folder: Path, rank: int, ranks: int) -> None:
    """A rank's file; the first rank then waits for the others' and writes the record of all.

    Raises `DamageError` where another rank does not write its file.
    """
    write_checkpoint(checkpoint, folder / share_name(rank, ranks))
    if rank > 0:
        return
    shares = wait_for_shares(folder, ranks, SHARE_SECONDS)
    record = {
        "step": checkpoint["global_step"],
        "bytes": sum(share["bytes"] for share in shares),
        "sha256": sha256_of_shares([folder / share["name"] for share in shares]),
        "shares": [share["name"] for share in shares],
    }
    write_json(folder.with_suffix(".json"), record)


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # of a path, torch tells a full disk as an internal error
        torch.save(checkpoint, file)


def remove_checkpoint(path: Path) -> None:
    """The record, so that nobody takes it for finished, then what it is of."""
    path.with_suffix(".json").unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_checkpoint(path: Path) -> None:
    """Raises `DamageError` unless the file, or that of each rank, can be read and has the size and
    checksum of its record."""
    try:
        _check(path)
    except OSError as error:  # of a disk's bad block, say
        raise DamageError(f"{path} cannot be read ({error.strerror})") from None


def _check(path: Path) -> None:
    record = path.with_suffix(".json")
    stated = checkpoint_record(path)
    if "shares" in stated:
        shares = [path / name for name in stated["shares"]]
        for share in shares:
            check_checkpoint(share)
        if sha256_of_shares(shares) != stated["sha256"]:
            raise DamageError(f"{path} has other shares than its record {record.name} is of")
        return
    if not path.is_file():
        raise DamageError(f"{path} is missing beside its record {record.name}")
    if path.stat().st_size != stated["bytes"]:
        raise DamageError(f"{path} has {path.stat().st_size} bytes, its record {stated['bytes']}")
    if sha256_of(path) != stated["sha256"]:
        raise DamageError(f"{path} does not have the sha256 of its record: it is damaged")


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint, from its record."""
    return checkpoint_record(checkpoint)["step"]


def read_checkpoint(
    path: Path, join: Callable[[list[torch.Tensor]], torch.Tensor] = torch.cat
) -> dict[str, Any]:
    """What is in a checkpoint, with tensors mapped rather than read. Check it first.

    `join` makes a tensor of the ranks' shares of it.
    """
    if path.is_dir():
        return join_shares([_map(share) for share in shares_of(path)], join)
    return _map(path)


def read_first_share(path: Path) -> dict[str, Any]:
    """The same, but of a checkpoint in shares only the first rank's: all that is not tensors."""
    return _map(shares_of(path)[0] if path.is_dir() else path)


def _map(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, newest first."""
    return sorted(folder.glob(PATTERN), reverse=True)


def last_good_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged checkpoint; says loudly which ones it passes over. None without any, and
    where the first one was never finished.

    Raises:
        InputError: there are checkpoints, and all are damaged.
    """
    found = checkpoints(folder)
    for path in found:
        try:
            check_checkpoint(path)
        except DamageError as error:
            print(f"WARNING: {error}; falling back to the checkpoint before", file=sys.stderr)
            continue
        return path
    lost = sum(path.is_file() for path in found) > 1  # records, for a kill costs no more than one
    if lost or any(is_finished(path) for path in found):
        raise InputError(
            f"all {len(found)} checkpoints in {folder} are damaged; restore one from a backup, "
            "or move the folder away to start anew"
        )
    if found:
        print(
            f"WARNING: no checkpoint in {folder} was ever finished: starting anew", file=sys.stderr
        )
    return None
