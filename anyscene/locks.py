"""Locks of a process that refuse another one, and do not let it wait as `files.sole_use` does."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from anyscene.errors import InputError
from anyscene.files import told_as_mistake
from anyscene.ranks import is_requeued, node_name

RUN_LOCK = ".lock"
MOST_TRIES = 100


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder, which is made if it is not there.

    A new folder in which nothing was written is removed again.

    Raises:
        InputError: another process trains in it, or it cannot be written.
    """
    is_new = not run.exists()
    try:
        with claimed(run / RUN_LOCK, run, "another training", "give this one another name="):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it holds a run
                run.rmdir()


@contextmanager
def claimed(lock: Path, folder: Path, other: str, fix: str) -> Iterator[bool]:
    """Have a folder for oneself, by a lock on a file, which is there as long.

    The lock goes with the process, however that ends. It is of the process, not of the open file:
    loaders that it has forked outlive a kill by seconds, and would keep the next one out.

    Args:
        lock: the file; it says which process has it.
        folder: what is told to be in use.
        other: who else may use it, for a user.
        fix: what a user can do but wait.

    Gives whether no other process can have the folder. It may where another has the lock which is
    not there any more, and on a file system without locks; of both a warning tells.

    Raises:
        InputError: another process has it, or the file cannot be written.
    """
    file = open_locked(lock, folder, f"by {other} (%s): wait for its end, or {fix}")
    try:
        yield file is not None
    finally:
        if file is not None:
            with suppress(OSError):  # one that stays harms nobody
                if is_at(file, lock):
                    lock.unlink()
            file.close()


def open_locked(lock: Path, folder: Path, told: str) -> IO[bytes] | None:
    """The file, locked, with the name of this process; None where `take` does not lock it."""
    for _ in range(MOST_TRIES):
        with ExitStack() as stack:
            with told_as_mistake(lock):
                lock.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(lock.open("a+b", buffering=0))
            if not take(file, lock, folder, told):
                return None
            if is_at(file, lock):
                with suppress(OSError):  # on a full disk it does not say who has it
                    file.truncate(0)
                    file.write(own_name().encode())
                stack.pop_all()
                return file
        # The one who had it has removed it since it was opened.
    raise InputError(f"{folder}: {lock} could not be locked in {MOST_TRIES} tries; try again")


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name: it may be removed, and made anew."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def take(file: IO[bytes], lock: Path, folder: Path, told: str) -> bool:
    """Lock the file; whether that succeeded. Raises `InputError` where another process has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        name = file.read().decode()
        if not (is_requeued() and name.endswith(own_job())):
            raise InputError(f"{folder} is in use {told % (name or 'just begun')}") from None
        # A node that was lost keeps its locks on a network file system for a while.
        print(f"WARNING: {lock} is still locked by this job's last start ({name})", file=sys.stderr)
        return False
    except OSError as error:
        print(
            f"WARNING: {lock} cannot be locked ({error.strerror}): nothing would keep another "
            f"process out of {folder}",
            file=sys.stderr,
        )
        return False
    return True


def own_name() -> str:
    """This process, as another one is told of it."""
    return f"process {os.getpid()} on {node_name()}{own_job()}"


def own_job() -> str:
    """How the names of processes of this one's SLURM job end; empty outside of one."""
    job = os.environ.get("SLURM_JOB_ID")
    return "" if job is None else f", SLURM job {job}"
