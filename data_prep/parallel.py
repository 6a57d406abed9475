"""An ordered map over worker processes, with a bounded number of results in flight."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

from anyscene.errors import DamageError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_ITEMS = 8
CHUNKS_IN_FLIGHT_PER_WORKER = 4

SPAWN = multiprocessing.get_context("spawn")


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
    processes = [_Worker(function) for _ in range(workers)]
    free: SimpleQueue[_Worker] = SimpleQueue()
    for process in processes:
        free.put(process)

    def apply(chunk: list[Item]) -> list[Result]:
        process = free.get()
        try:
            return process.apply(chunk)
        except _KilledError:
            for other in processes:  # whose results are waited for first, perhaps
                other.process.kill()
            raise
        finally:
            free.put(process)

    threads = ThreadPoolExecutor(workers)
    try:
        first = itertools.islice(chunks, workers * CHUNKS_IN_FLIGHT_PER_WORKER)
        pending = deque(threads.submit(apply, chunk) for chunk in first)
        while pending:
            results = pending.popleft().result()
            pending.extend(threads.submit(apply, chunk) for chunk in itertools.islice(chunks, 1))
            yield from results
    except _KilledError:
        raise DamageError(
            "a worker process was killed, perhaps for lack of memory; "
            "run the same command again, with fewer workers"
        ) from None
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.end()
        threads.shutdown()


class _KilledError(Exception):
    """A worker process is no more."""


class _Worker:
    """A process with a connection of its own.

    `ProcessPoolExecutor` has one pipe for the results of all: of a worker that is killed while it
    writes one, the rest is waited for without limit, since the others hold the pipe open. Here its
    death is the end of the connection, in the middle of a result too.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.connection, others = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_work, args=(others, function), daemon=True)
        self.process.start()
        others.close()

    def apply(self, chunk: list[Any]) -> list[Any]:
        """The results of a chunk. Raises the function's error, or `_KilledError`."""
        try:
            self.connection.send(chunk)
            results, error = self.connection.recv()
        except (EOFError, OSError):
            raise _KilledError from None
        if error is not None:
            raise error
        return results

    def end(self) -> None:
        """Kill it: SIGTERM may have been blocked or ignored when this command was started, and that
        is inherited."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, function: Callable[[Any], Any]) -> None:
    """What a process does until it is killed, or its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupts are left to the parent
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # multiprocessing ends by it what is left behind
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        chunk = connection.recv()
        try:
            answer = [function(item) for item in chunk], None
        except Exception as error:
            answer = None, error
        connection.send(answer)


def _chunks(items: Iterable[Item], length: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, length)):
        yield chunk


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
