"""The lanes of a global batch, divided among the data sets of a mix.

In each bucket a data set gets a fixed whole number of lanes, by largest remainder of its weight
times the share of its samples that lie in the bucket. So a data set of weight w gives about w
samples for each one of the first, and every global batch has the same mixture. The lanes of each
are spread evenly over the batch, and thereby over the ranks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyscene.data.sources import Shards
from anyscene.data.stream import Bucket, Order, Pool, segments_by_bucket
from anyscene.errors import InputError


@dataclass(frozen=True)
class DataSet:
    """One data set of a mix."""

    location: str
    weight: float  # samples for each one of the first data set's
    segments: dict[str, np.ndarray]  # by bucket, see `Pool`

    def samples(self, bucket: str | None = None) -> int:
        """Samples in a bucket, or in all."""
        found = self.segments.values() if bucket is None else [self.segments.get(bucket)]
        return sum(int(segments[:, 2].sum()) for segments in found if segments is not None)

    def share(self, bucket: str) -> float:
        """Samples of a bucket for each sample of the first data set."""
        return self.weight * self.samples(bucket) / max(1, self.samples())


def make_order(
    train: Shards,
    seed: int,
    batch_size: int,
    shuffle_window: int,
    overfit: int = 0,
    mix: Sequence[tuple[Shards, float]] = (),
) -> Order:
    """The order of a run over a data set, and those mixed into it with their weights.

    Slots count the shards of all data sets, `train` first. `overfit` > 0 keeps the first samples
    of `train` only, repeated to fill a batch. Raises `InputError` where no bucket fills a global
    batch or a data set gets no lane.
    """
    sets = data_sets(train, mix, overfit)
    if overfit:
        for name, segments in sets[0].segments.items():
            times = -(-batch_size // sets[0].samples(name))
            sets[0].segments[name] = np.tile(segments, (times, 1))
    names = list(dict.fromkeys(name for data_set in sets for name in data_set.segments))
    buckets = [_bucket(sets, names, code, batch_size) for code in range(len(names))]
    order = Order(seed, batch_size, shuffle_window, tuple(buckets))
    if order.batches_per_epoch == 0:
        raise InputError(_too_few(sets[0], batch_size))
    for data_set, share in zip(sets, effective_shares(order, len(sets)), strict=True):
        if share == 0:
            raise InputError(_no_lane(data_set, sets, names, batch_size))
    return order


def data_sets(
    train: Shards, mix: Sequence[tuple[Shards, float]] = (), limit: int = 0
) -> list[DataSet]:
    """The data sets of a run, numbering their shards from one to the next."""
    sets = [DataSet(train.location, 1.0, segments_by_bucket(train.shards, limit))]
    first = len(train.shards)
    for shards, weight in mix:
        segments = segments_by_bucket(shards.shards)
        moved = {name: values + np.array([first, 0, 0]) for name, values in segments.items()}
        sets.append(DataSet(shards.location, weight, moved))
        first += len(shards.shards)
    return sets


def effective_shares(order: Order, sets: int) -> list[float]:
    """The share of each data set in the samples of an epoch."""
    slots = [0] * sets
    for bucket in order.buckets:
        for pool in bucket.pools:
            slots[pool.data_set] += pool.lanes * bucket.batches
    return [number / (order.batches_per_epoch * order.batch_size) for number in slots]


def untrained(order: Order, sets: Sequence[DataSet]) -> list[tuple[DataSet, str]]:
    """The data sets and buckets that have samples, but no part in any global batch."""
    trained = {
        (pool.data_set, bucket.name)
        for bucket in order.buckets
        if bucket.batches
        for pool in bucket.pools
    }
    return [
        (data_set, name)
        for number, data_set in enumerate(sets)
        for name in data_set.segments
        if (number, name) not in trained
    ]


def allot_lanes(shares: Sequence[float], lanes: int) -> list[int]:
    """Whole numbers of lanes in proportion to the shares, by largest remainder."""
    if not sum(shares):
        return [0] * len(shares)
    exact = np.array(shares) / sum(shares) * lanes
    whole = np.floor(exact).astype(int)
    rest = np.argsort(whole - exact, kind="stable")[: lanes - whole.sum()]
    whole[rest] += 1
    return whole.tolist()


def spread_lanes(counts: Sequence[int]) -> np.ndarray:
    """n 2: whose turn each lane is, spread evenly, and the how manyth of its own it is."""
    total = sum(counts)
    given = [0] * len(counts)
    lanes = []
    for lane in range(1, total + 1):
        behind = [count * lane - total * done for count, done in zip(counts, given, strict=True)]
        owner = behind.index(max(behind))
        lanes.append((owner, given[owner]))
        given[owner] += 1
    return np.array(lanes, np.int64).reshape(-1, 2)


def _bucket(sets: list[DataSet], names: list[str], code: int, batch_size: int) -> Bucket:
    name = names[code]
    shares = [data_set.share(name) for data_set in sets]
    counts = allot_lanes(shares, batch_size)
    if sets[0].samples(name) < counts[0]:
        counts = allot_lanes([0.0, *shares[1:]], batch_size)
    pools = []
    for number, (data_set, lanes) in enumerate(zip(sets, counts, strict=True)):
        if lanes:
            times = -(-lanes // data_set.samples(name))  # more than once where it has too few
            segments = np.tile(data_set.segments[name], (times, 1))
            pools.append(Pool(number * len(names) + code, number, segments, lanes))
    if counts[0]:
        batches = pools[0].lane_length
    else:
        batches = int(sets[0].samples() * sum(shares[1:]) / batch_size)
    return Bucket(name, batches, tuple(pools), spread_lanes([pool.lanes for pool in pools]))


def _too_few(data_set: DataSet, batch_size: int) -> str:
    largest = max((data_set.samples(name) for name in data_set.segments), default=0)
    if not largest:
        return f"{data_set.location!r} has no samples; prepare the shards again"
    return (
        f"{data_set.location!r} has {largest} samples in its largest bucket, less than one "
        f"global batch of data.batch_size={batch_size}; use data.batch_size={largest} or less"
    )


def _no_lane(data_set: DataSet, sets: list[DataSet], names: list[str], batch_size: int) -> str:
    if not data_set.samples():
        return f"{data_set.location!r} has no samples; prepare the shards again"
    needed = min(
        math.ceil(sum(other.share(name) for other in sets) / data_set.share(name))
        for name in names
        if data_set.share(name)
    )
    named = f"data.mix: {data_set.location!r} with weight {data_set.weight:g}"
    if needed <= batch_size:
        return f"{named} gives less than a global batch of {batch_size} an epoch; raise its weight"
    return (
        f"{named} gets no lane of a global batch of data.batch_size={batch_size}; use "
        f"data.batch_size={needed} or more, or a larger weight"
    )
