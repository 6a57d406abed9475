"""The order of training samples: pure functions of the manifest, the seed and the position.

A *source slot* is one place of a global batch. Slot number `counter` = step * batch_size + lane is
all that noise, captions, dropout and augmentation depend on, so nothing of the order is a state.

For each bucket, the shards of an epoch are shuffled and their samples laid in a ring that starts
at a random sample. The ring is cut into `batch_size` equal *lanes* (what is left over is dropped,
another piece each epoch), each lane is shuffled within windows, and global batch b is the b-th
sample of every lane. A rank takes neighbouring lanes, so it reads shards of its own; accumulation
cuts a rank's lanes again. Neither changes what a global batch holds.

In a mix each data set has some lanes of every global batch, see `anyscene.data.mixing`, and a ring
of its own that is passed through again and again, however often. An epoch is a pass of the first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import NamedTuple

import numpy as np

from anyscene.data.random import Purpose, permutation, random_words
from anyscene.data.sample import ShardRecord
from anyscene.data.sources import Shards
from anyscene.errors import ConfigError


class Slot(NamedTuple):
    """One place of a batch and the sample that belongs there."""

    counter: int  # number of the source slot, unique in a run
    bucket: int  # number of the bucket
    shard: int  # number of the shard in the manifest
    sample: int  # number of the sample in the shard
    data_set: int = 0  # of a mix, 0 is `data.train`


@dataclass(frozen=True)
class Pool:
    """The samples of one size in one data set, and how many lanes of a global batch they fill."""

    number: int  # of its random sequences
    data_set: int
    segments: np.ndarray  # n 3 int64: shard, first sample, number of samples
    lanes: int

    @property
    def samples(self) -> int:
        """How many samples the segments hold."""
        return int(self.segments[:, 2].sum())

    @property
    def lane_length(self) -> int:
        """Global batches in a pass through the samples."""
        return self.samples // self.lanes


@dataclass(frozen=True)
class Bucket:
    """The samples of one size."""

    name: str  # "HxW"
    batches: int  # global batches an epoch
    pools: tuple[Pool, ...]  # those that have lanes
    lanes: np.ndarray  # batch_size 2: the pool of each lane of a global batch, and the lane in it


@dataclass(frozen=True)
class Order:
    """All that fixes the order of a run. Make it with `make_order`."""

    seed: int
    batch_size: int
    shuffle_window: int
    buckets: tuple[Bucket, ...]

    @cached_property
    def batches_per_epoch(self) -> int:
        """Global batches an epoch, the same in every epoch."""
        return sum(bucket.batches for bucket in self.buckets)

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch and batch within it of an optimizer step."""
        return divmod(step, self.batches_per_epoch)

    def plan(self, epoch: int) -> "EpochPlan":
        """The order of one epoch."""
        counts = [bucket.batches for bucket in self.buckets]
        codes = np.repeat(np.arange(len(counts)), counts)
        codes = codes[permutation(self.seed, Purpose.buckets, (epoch,), len(codes))]
        positions = np.empty_like(codes)
        for code, batches in enumerate(counts):
            positions[codes == code] = np.arange(batches)
        return EpochPlan(self, epoch, codes, positions)

    def replacement(self, slot: Slot, attempt: int) -> Slot:
        """Another sample of the slot's bucket and data set, of (seed, slot, attempt >= 1)."""
        bucket = self.buckets[slot.bucket]
        pool = bucket.pools[bucket.lanes[slot.counter % self.batch_size, 0]]
        word = random_words(self.seed, Purpose.replacement, (slot.counter, attempt), 1)[0]
        shards, samples = locate_samples(pool.segments, np.array([int(word) % pool.samples]))
        return slot._replace(shard=int(shards[0]), sample=int(samples[0]))


@dataclass(frozen=True)
class EpochPlan:
    """The global batches of one epoch, computed where they are asked for."""

    order: Order
    epoch: int
    codes: np.ndarray  # bucket of each global batch
    positions: np.ndarray  # number of each global batch among those of its bucket
    walks: dict[int, "Walk"] = field(default_factory=dict)  # by the number of their pool

    def slots(self, batch: int, lanes: range) -> list[Slot]:
        """The slots of some lanes of a global batch."""
        code = int(self.codes[batch])
        bucket = self.order.buckets[code]
        step = self.epoch * bucket.batches + int(self.positions[batch])
        pools, lanes_of_pools = bucket.lanes[lanes.start : lanes.stop].T
        places = np.empty((len(lanes), 2), np.int64)  # shard, sample
        for number in np.unique(pools):
            chosen = pools == number
            walk = self._walk(bucket.pools[number])
            places[chosen] = walk.places(step, lanes_of_pools[chosen].tolist())
        first = (self.epoch * self.order.batches_per_epoch + batch) * self.order.batch_size
        sets = [bucket.pools[number].data_set for number in pools]
        return [
            Slot(first + lane, code, shard, sample, data_set)
            for lane, (shard, sample), data_set in zip(lanes, places.tolist(), sets, strict=True)
        ]

    def _walk(self, pool: Pool) -> "Walk":
        if pool.number not in self.walks:
            self.walks[pool.number] = Walk(self.order, pool)
        return self.walks[pool.number]


@dataclass
class Walk:
    """The way of the lanes of a pool through its samples, pass after pass."""

    order: Order
    pool: Pool
    ring: tuple[int, "Ring"] | None = None
    """Memory of the ring in use, with its pass: no part of the result, as `windows`."""
    windows: dict[int, tuple[tuple[int, int], np.ndarray]] = field(default_factory=dict)
    """By lane: number of pass and window in use, and its places."""

    def places(self, step: int, lanes: list[int]) -> np.ndarray:
        """Shard and sample of some lanes, n 2, in the pool's global batch number `step`."""
        number, position = divmod(step, self.pool.lane_length)
        if self.ring is None or self.ring[0] != number:
            self.ring = number, Ring.of(self.order.seed, number, self.pool)
        ring = self.ring[1]
        places = [
            ring.start + lane * self.pool.lane_length + self._shuffled(number, lane, position)
            for lane in lanes
        ]
        return np.stack(locate_samples(ring.segments, np.array(places) % self.pool.samples), 1)

    def _shuffled(self, number: int, lane: int, position: int) -> int:
        """Where in a lane the sample of a position lies: shuffled within its window."""
        window, offset = divmod(position, self.order.shuffle_window)
        known = self.windows.get(lane)
        if known is None or known[0] != (number, window):
            first = window * self.order.shuffle_window
            length = min(self.order.shuffle_window, self.pool.lane_length - first)
            place = (number, self.pool.number * self.order.batch_size + lane, window)
            shuffled = first + permutation(self.order.seed, Purpose.window, place, length)
            known = self.windows[lane] = (number, window), shuffled
        return int(known[1][offset])


@dataclass(frozen=True)
class Ring:
    """The samples of a pool in a pass, end joined to start."""

    segments: np.ndarray  # n 3, shuffled
    start: int  # sample that the first lane starts with

    @classmethod
    def of(cls, seed: int, number: int, pool: Pool) -> "Ring":
        """The ring of a pool in pass `number`."""
        order = permutation(seed, Purpose.shards, (number, pool.number), len(pool.segments))
        start = random_words(seed, Purpose.ring, (number, pool.number), 1)[0]
        return cls(pool.segments[order], int(start) % pool.samples)


def locate_samples(segments: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shard, and number in the shard, of the samples at `places` of the concatenated segments."""
    ends = np.cumsum(segments[:, 2])
    number = np.searchsorted(ends, places, side="right")
    shard, first, samples = segments[number].T
    return shard, first + places - (ends[number] - samples)


@dataclass(frozen=True)
class Share:
    """Which part of each global batch a process takes, and in how many micro-batches."""

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def lanes(self, batch_size: int, part: int) -> range:
        """The lanes of micro-batch `part` of a global batch.

        Raises `ConfigError` where ranks and accumulation do not divide the global batch.
        """
        pieces = self.world_size * self.accumulate
        if batch_size % pieces:
            below = batch_size // pieces * pieces
            fitting = " or ".join(str(n) for n in (below, below + pieces) if n)
            raise ConfigError(
                f"data.batch_size={batch_size} must be a multiple of {pieces} ({self.world_size} "
                f"devices x train.accumulate={self.accumulate}); use {fitting}"
            )
        size = batch_size // pieces
        first = (self.rank * self.accumulate + part) * size
        return range(first, first + size)


def train_micro_batches(
    order: Order, share: Share, start_step: int, worker: int = 0, workers: int = 1
) -> Iterator[list[Slot]]:
    """A rank's micro-batches from an optimizer step on, without end.

    A worker yields every `workers`-th of them, beginning with number `worker`. A `DataLoader`
    takes one batch from each worker in turn, so that the order is the same for any number of them.
    """
    plan = order.plan(order.locate(start_step)[0])
    for micro_batch in count(worker, workers):
        step, part = divmod(micro_batch, share.accumulate)
        epoch, batch = order.locate(start_step + step)
        if epoch != plan.epoch:
            plan = order.plan(epoch)
        yield plan.slots(batch, share.lanes(order.batch_size, part))


def validation_batches(
    shards: Shards, share: Share, limit: int, batch_size: int
) -> list[list[Slot]]:
    """A rank's share of the first `limit` samples, each sample on one rank, once.

    Of each bucket a rank takes samples rank, rank + world_size, ...; a batch has one bucket, and
    the last batch of a bucket may be smaller. `counter` is the sample's number in the manifest.
    """
    batches = []
    counter = 0
    for code, segments in enumerate(segments_by_bucket(shards.shards, limit).values()):
        total = int(segments[:, 2].sum())
        places = np.arange(share.rank, total, share.world_size)
        slots = [
            Slot(counter + int(place), code, int(shard), int(sample))
            for place, shard, sample in zip(places, *locate_samples(segments, places), strict=True)
        ]
        batches += [slots[i : i + batch_size] for i in range(0, len(slots), batch_size)]
        counter += total
    return batches


def segments_by_bucket(records: Sequence[ShardRecord], limit: int = 0) -> dict[str, np.ndarray]:
    """Runs of samples (shard, first sample, number; n 3) by bucket.

    Of the first `limit` samples in the order of the records, 0: of all.
    """
    rows: dict[str, list[tuple[int, int, int]]] = {}
    left = limit or sum(record.samples for record in records)
    for number, record in enumerate(records):
        samples = min(record.samples, left)
        left -= samples
        if samples:
            rows.setdefault(record.bucket, []).append((number, 0, samples))
    return {bucket: np.array(values, np.int64) for bucket, values in rows.items()}
