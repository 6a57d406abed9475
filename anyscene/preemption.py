"""Requests to stop, and leave to be started again: signals and the requeue marker. No torch here.

The signals are blocked before anything heavy is imported, and looked at between optimizer steps.
There is no handler: Lightning would replace it, and it would not cover what is started later.
Threads and processes inherit the block; without it a loader's worker dies of the SIGTERM, and
W&B's process of the SIGUSR1, that Slurm sends to every process of a job.

The marker is a file whose presence, after the end of a job's processes, makes the job script ask
Slurm for another start. `ANYSCENE_REQUEUE` names it.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from anyscene.errors import (
    AnySceneError,
    DamageError,
    InputError,
    LostRankError,
    RunFailedError,
)
from anyscene.ranks import is_first_process, place

SIGNALS = frozenset({signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM})
MARKER = "ANYSCENE_REQUEUE"
MOST_DEATHS = 3
"""Starts in a row that may die without a new checkpoint and yet be followed by another."""


class RunStopped(Exception):
    """A run has stopped as a signal asked, and can go on from `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}, as a signal asked; the same command goes on")
        self.step = step


def hold_signals() -> None:
    """From now on the signals wait, in this thread and all threads and processes it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def stop_requested() -> bool:
    """Whether one of the signals is waiting."""
    return not SIGNALS.isdisjoint(signal.sigpending())


@contextmanager
def survivable() -> Iterator[None]:
    """A start of a run under SLURM: whatever ends it, the marker says whether to start again.

    A stop by a signal, a death and ranks that do not answer leave the marker; the end of the run,
    and what would only come again (a user's mistake, damage, a step that is not finite, too little
    memory), on whichever rank, take it away.

    Raises:
        InputError: the marker cannot be written.
    """
    hold_signals()
    _announce_start()
    try:
        yield
    except RunStopped:
        _write_marker(0)
        raise
    except LostRankError:
        raise  # the marker says that this start died
    except (AnySceneError, DamageError, RunFailedError) as error:
        _remove_marker()
        error.args = (f"{place()}{error}",)
        raise
    if is_first_process():
        _remove_marker()


def note_progress() -> None:
    """A new checkpoint is there: a death from now on is the first in a row."""
    _write_marker(1)


def _announce_start() -> None:
    """Count this start as a death until it shows otherwise; after too many leave no mark."""
    marker = _marker()
    if marker is None:
        return
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        told = marker.read_bytes().strip() if marker.exists() else b""
        deaths = int(told) if told.isdigit() else 0
        marker.write_text(f"{deaths + 1}\n")
    except OSError as error:
        with suppress(OSError):
            _remove_marker()  # or else the job would be started again without end
        raise InputError(f"{marker} cannot be written ({error.strerror})") from None
    if deaths >= MOST_DEATHS:
        _remove_marker()


def _write_marker(deaths: int) -> None:
    """Note how many starts in a row died. On a full disk the marker stays, and says 0."""
    marker = _marker()
    if marker is not None:
        with suppress(OSError):
            marker.write_text(f"{deaths}\n")


def _remove_marker() -> None:
    """The job shall not be started again."""
    path = os.environ.get(MARKER)
    if path:
        Path(path).unlink(missing_ok=True)


def _marker() -> Path | None:
    """The marker, on rank zero of a job that has one."""
    path = os.environ.get(MARKER)
    return Path(path) if path and is_first_process() else None
