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

from anyscene.errors import AnySceneError, DamageError, RunFailedError
from anyscene.ranks import is_first_process

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

    A stop by a signal and a death leave the marker; the end of the run, and what would only come
    again (a user's mistake, damage, a step that is not finite, too little memory) take it away.
    """
    hold_signals()
    _announce_start()
    try:
        yield
    except RunStopped:
        _write_marker(0)
        raise
    except (AnySceneError, DamageError, RunFailedError):
        _write_marker(None)
        raise
    _write_marker(None)


def note_progress() -> None:
    """A new checkpoint is there: a death from now on is the first in a row."""
    with suppress(OSError):  # a disk that it just filled
        _write_marker(1)


def _announce_start() -> None:
    """Count this start as a death until it shows otherwise; after too many leave no mark."""
    marker = _marker()
    if marker is not None:
        marker.parent.mkdir(parents=True, exist_ok=True)
        deaths = int(marker.read_text() or 0) if marker.exists() else 0
        _write_marker(deaths + 1 if deaths < MOST_DEATHS else None)


def _write_marker(deaths: int | None) -> None:
    """Note how many starts in a row died; None: the job shall not be started again."""
    marker = _marker()
    if marker is None:
        return
    if deaths is None:
        marker.unlink(missing_ok=True)
    else:
        marker.write_text(f"{deaths}\n")


def _marker() -> Path | None:
    """The marker, on rank zero of a job that has one."""
    path = os.environ.get(MARKER)
    return Path(path) if path and is_first_process() else None
