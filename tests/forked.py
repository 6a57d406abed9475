"""Processes that take part in one computation."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing

IMPORTS = ["anyscene.metrics.build"]
"""What takes most of a new process's time; a module that only imports, so that forking is safe."""


def run_ranks(function: Callable[..., None], number: int, *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in `number` processes, and raise what one of them raises.

    They are forked from a process that has made the imports, once for all tests.
    """
    multiprocessing.set_forkserver_preload(IMPORTS)
    torch.multiprocessing.start_processes(
        function, arguments, number, daemon=True, start_method="forkserver"
    )
