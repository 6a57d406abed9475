"""Functions in processes of their own: fresh memory, a time limit, imports paid once."""

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

PR_SET_PDEATHSIG = 1


class ChildFailedError(Exception):
    """The function raised, its process died, or it took too long; says which."""


def in_own_process(function: Callable[..., Any], *arguments: Any, limit: float) -> Any:
    """What the function returns in a fork of this process, given `limit` seconds.

    The fork has what is imported here, so that it starts at once. This process must not have
    touched a GPU or have computed in parallel before: neither survives a fork.

    Raises:
        ChildFailedError: the function did not return.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(sender, function, arguments))
    child.start()
    sender.close()
    try:
        if not receiver.poll(limit):
            raise ChildFailedError(f"took more than {limit:.0f} s")
        done, result = receiver.recv()
    except EOFError:
        raise ChildFailedError("its process died") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid or 0, signal.SIGKILL)  # with its loader's workers
        child.kill()
        child.join()
    if not done:
        raise ChildFailedError(result)
    return result


def _call(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setpgrp()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Linux: it ends with its parent
    try:
        sender.send((True, function(*arguments)))
    except Exception:
        sender.send((False, traceback.format_exc(limit=-6)))
