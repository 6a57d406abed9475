"""A stage that fetches the shards of the next batches while the current one is read."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue

from anyscene.data.sources import Shards
from anyscene.data.stream import Slot
from anyscene.errors import InputError

LOOK_AHEAD = 32
"""Micro-batches of a loader worker whose shards are asked for ahead."""


def fetch_ahead(shards: Shards, batches: Iterable[list[Slot]]) -> Iterator[list[Slot]]:
    """The same batches, while a thread fetches the shards of those to come, in their order."""
    if not shards.fetched:
        yield from batches
        return
    wanted: SimpleQueue[int | None] = SimpleQueue()
    ended = threading.Event()
    threading.Thread(target=_fetch_wanted, args=(shards, wanted, ended), daemon=True).start()
    asked: set[int] = set()
    ahead: deque[list[Slot]] = deque()
    try:
        for slots in batches:
            ahead.append(slots)
            for number in dict.fromkeys(slot.shard for slot in slots):
                if number not in asked:
                    wanted.put(number)
            asked = {slot.shard for batch in ahead for slot in batch}
            if len(ahead) > LOOK_AHEAD:
                yield ahead.popleft()
        yield from ahead
    finally:
        ended.set()
        wanted.put(None)


def _fetch_wanted(shards: Shards, wanted: SimpleQueue[int | None], ended: threading.Event) -> None:
    while (number := wanted.get()) is not None and not ended.is_set():
        with suppress(InputError, OSError):  # the reader meets it again, and says so
            shards.path(number)
