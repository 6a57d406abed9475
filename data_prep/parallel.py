"""An ordered map over worker processes, with a bounded number of results in flight."""

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK_ITEMS = 8
CHUNKS_IN_FLIGHT_PER_WORKER = 4


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[Result]:
    """`map(function, items)`, over `workers` spawned processes when there is more than one.

    The results come in the order of the items. At most a few chunks a worker are in flight, so that
    memory does not grow with the data. `function` must be picklable; its errors are raised here.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    chunks = _chunks(items)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        first = itertools.islice(chunks, workers * CHUNKS_IN_FLIGHT_PER_WORKER)
        pending = deque(pool.submit(_apply, function, chunk) for chunk in first)
        try:
            while pending:
                results = pending.popleft().result()
                pending.extend(
                    pool.submit(_apply, function, chunk) for chunk in itertools.islice(chunks, 1)
                )
                yield from results
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK_ITEMS)):
        yield chunk


def _apply(function: Callable[[Item], Result], chunk: list[Item]) -> list[Result]:
    return [function(item) for item in chunk]
