"""An ordered map over worker processes, with a bounded number of results in flight."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TypeVar

from anyscene.errors import DamageError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_ITEMS = 8
CHUNKS_IN_FLIGHT_PER_WORKER = 4


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    chunk_items: int = CHUNK_ITEMS,
) -> Iterator[Result]:
    """`map(function, items)`, over `workers` spawned processes when there is more than one.

    The results come in the order of the items. At most a few chunks of `chunk_items` a worker are
    in flight, so that memory does not grow with the data. `function` must be picklable; its errors
    are raised here. Raises `DamageError` when a process is killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    chunks = _chunks(items, chunk_items)
    with ProcessPoolExecutor(workers, mp_context=_Spawn(), initializer=_begin_worker) as pool:
        first = itertools.islice(chunks, workers * CHUNKS_IN_FLIGHT_PER_WORKER)
        try:
            pending = deque(pool.submit(_apply, function, chunk) for chunk in first)
            # The pool looks after the workers that it had when something was last submitted, and
            # starts a worker after a submission: without one more it may miss the last one's death.
            pool.submit(_apply, function, [])
            while pending:
                results = pending.popleft().result()
                pending.extend(
                    pool.submit(_apply, function, chunk) for chunk in itertools.islice(chunks, 1)
                )
                yield from results
        except BrokenProcessPool:
            raise DamageError(
                "a worker process was killed, perhaps for lack of memory; "
                "run the same command again, with fewer workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Worker(SpawnProcess):
    """A process whose end cannot be held back.

    The pool terminates the survivors when one worker is killed, and waits for them without limit.
    By SIGTERM that is forever where it was blocked or ignored when this command was started, for
    that is inherited: by a worker at work, and by one that has not got beyond its imports.
    """

    def terminate(self) -> None:
        self.kill()


class _Spawn(SpawnContext):
    Process = _Worker


def _chunks(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, length)):
        yield chunk


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def _begin_worker() -> None:
    """Leave interrupts to the parent, and end when it does: a killed one cannot tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
