"""Random numbers of the order and of captions: functions of (seed, purpose, position), no state."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """Independent sequences of random numbers. Values are part of a run's identity."""

    shards = 1
    ring = 2
    buckets = 3
    window = 4
    replacement = 5
    caption = 6


def random_words(seed: int, purpose: Purpose, position: tuple[int, ...], number: int) -> np.ndarray:
    """`number` uint64 random numbers of (seed, purpose, position); at most three positions.

    The raw output of Philox (Salmon et al. 2011), which numpy promises not to change.
    """
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(position)] = position
    key = np.array([seed % 2**64, purpose], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(number)


def permutation(seed: int, purpose: Purpose, position: tuple[int, ...], number: int) -> np.ndarray:
    """A permutation of 0 to number - 1, a function of (seed, purpose, position)."""
    return np.argsort(random_words(seed, purpose, position, number), kind="stable")
