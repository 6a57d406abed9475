"""A process of a test that ends with it, however the test ends."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

SECONDS = 120
"""Long enough for every wait on a busy machine, and less than a test's own limit."""


@contextmanager
def child_process(command: Sequence[Any], **popen: Any) -> Iterator[subprocess.Popen]:
    """Start a command; afterwards it and all that it started are killed.

    `Popen` as a context waits without limit for a process that a failed test has left running. The
    process leads a session of its own, so that its workers can be reached when it is gone.
    """
    with subprocess.Popen(command, start_new_session=True, **popen) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
