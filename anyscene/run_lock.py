"""One training at a time in a run folder."""

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

LOCK = ".lock"


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder, which is made if it is not there.

    The lock goes with the process, however that ends. It is of the process, not of the open file
    as that of `sole_use`: loaders that it has forked outlive a kill by seconds, and would keep the
    next start out. A new folder in which nothing was written is removed again.

    Raises:
        InputError: another process trains in it, or it cannot be written.
    """
    is_new = not run.exists()
    file = open_locked(run / LOCK)
    try:
        yield
    finally:
        if file is not None:
            (run / LOCK).unlink(missing_ok=True)
            file.close()
            if is_new:
                with suppress(OSError):  # it holds a run
                    run.rmdir()


def open_locked(path: Path) -> IO[bytes] | None:
    """The file, locked, which says who has it. None where another has it who is not there any more,
    and on a file system without locks, of which a warning tells."""
    while True:
        with ExitStack() as stack:
            with told_as_mistake(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("a+b", buffering=0))
            if not take(file, path):
                return None
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                with suppress(OSError):  # on a full disk it does not say who has it
                    file.truncate(0)
                    file.write(own_name().encode())
                stack.pop_all()
                return file
        # The one who had it has removed it since it was opened.


def take(file: IO[bytes], path: Path) -> bool:
    """Lock the file; whether that succeeded. Raises `InputError` where another process has it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        other = file.read().decode()
        if not (is_requeued() and other.endswith(own_job())):
            raise InputError(
                f"{path.parent} is in use by another training ({other or 'just begun'}): wait for "
                "its end, or give this one another name="
            ) from None
        # A node that was lost keeps its locks on a network file system for a while.
        print(
            f"WARNING: {path} is still locked by this job's last start ({other})", file=sys.stderr
        )
        return False
    except OSError as error:
        print(
            f"WARNING: {path} cannot be locked ({error.strerror}): nothing would keep another "
            f"training out of {path.parent}",
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
