"""The order of training samples: pure functions of the manifest, the seed and the position.

A *source slot* is one place of a global batch. Slot number `counter` = step * batch_size + lane is
all that noise, captions, dropout and augmentation depend on, so nothing of the order is a state.

For each bucket, the shards of an epoch are shuffled and their samples laid in a ring that starts
at a random sample. The ring is cut into `batch_size` equal *lanes* (what is left over is dropped,
another piece each epoch), each lane is shuffled within windows, and global batch b is the b-th
sample of every lane. A rank takes neighbouring lanes, so it reads shards of its own; accumulation
cuts a rank's lanes again. Neither changes what a global batch holds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import count
from typing import NamedTuple

import numpy as np

from anyscene.data.sample import ShardManifest
from anyscene.errors import ConfigError, InputError


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


class Slot(NamedTuple):
    """One place of a batch and the sample that belongs there."""

    counter: int  # number of the source slot, unique in a run
    bucket: int  # number of the bucket
    shard: int  # number of the shard in the manifest
    sample: int  # number of the sample in the shard


@dataclass(frozen=True)
class Bucket:
    """The samples of one size, as runs of neighbouring samples in shards."""

    name: str  # "HxW"
    segments: np.ndarray  # n 3 int64: shard, first sample, number of samples

    @property
    def samples(self) -> int:
        """How many samples the segments hold."""
        return int(self.segments[:, 2].sum())


@dataclass(frozen=True)
class Order:
    """All that fixes the order of a run. Make it with `make_order`."""

    seed: int
    batch_size: int
    shuffle_window: int
    buckets: tuple[Bucket, ...]

    @property
    def batches_per_epoch(self) -> int:
        """Global batches an epoch, the same in every epoch."""
        return sum(bucket.samples // self.batch_size for bucket in self.buckets)

    @property
    def dropped(self) -> int:
        """Samples left out of each epoch, others each time."""
        return sum(bucket.samples % self.batch_size for bucket in self.buckets)

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch and batch within it of an optimizer step."""
        return divmod(step, self.batches_per_epoch)

    def plan(self, epoch: int) -> "EpochPlan":
        """The order of one epoch."""
        counts = [bucket.samples // self.batch_size for bucket in self.buckets]
        codes = np.repeat(np.arange(len(counts)), counts)
        codes = codes[permutation(self.seed, Purpose.buckets, (epoch,), len(codes))]
        positions = np.empty_like(codes)
        for code, batches in enumerate(counts):
            positions[codes == code] = np.arange(batches)
        rings = tuple(
            Ring.of(self.seed, epoch, code, bucket.segments)
            for code, bucket in enumerate(self.buckets)
        )
        return EpochPlan(self, epoch, codes, positions, rings)

    def replacement(self, slot: Slot, attempt: int) -> Slot:
        """Another sample of the slot's bucket, a function of (seed, slot, attempt >= 1)."""
        bucket = self.buckets[slot.bucket]
        word = random_words(self.seed, Purpose.replacement, (slot.counter, attempt), 1)[0]
        shards, samples = locate_samples(bucket.segments, np.array([int(word) % bucket.samples]))
        return slot._replace(shard=int(shards[0]), sample=int(samples[0]))


@dataclass(frozen=True)
class Ring:
    """The samples of a bucket in an epoch, end joined to start."""

    segments: np.ndarray  # n 3, shuffled
    start: int  # sample that the first lane starts with

    @classmethod
    def of(cls, seed: int, epoch: int, code: int, segments: np.ndarray) -> "Ring":
        """The ring of bucket `code` in an epoch."""
        order = permutation(seed, Purpose.shards, (epoch, code), len(segments))
        start = random_words(seed, Purpose.ring, (epoch, code), 1)[0]
        return cls(segments[order], int(start) % int(segments[:, 2].sum()))


@dataclass(frozen=True)
class EpochPlan:
    """The global batches of one epoch, computed where they are asked for."""

    order: Order
    epoch: int
    codes: np.ndarray  # bucket of each global batch
    positions: np.ndarray  # number of each global batch among those of its bucket
    rings: tuple[Ring, ...]  # one a bucket
    windows: dict[tuple[int, int], tuple[int, np.ndarray]] = field(default_factory=dict)
    """Memory of the window in use by (bucket, lane): no part of the result."""

    def slots(self, batch: int, lanes: range) -> list[Slot]:
        """The slots of some lanes of a global batch."""
        code, position = int(self.codes[batch]), int(self.positions[batch])
        ring = self.rings[code]
        size = self.order.batch_size
        lane_length = self.order.buckets[code].samples // size
        places = [
            ring.start + lane * lane_length + self._shuffled(code, lane, position, lane_length)
            for lane in lanes
        ]
        shards, samples = locate_samples(
            ring.segments, np.array(places) % self.order.buckets[code].samples
        )
        first = (self.epoch * self.order.batches_per_epoch + batch) * size
        return [
            Slot(first + lane, code, shard, sample)
            for lane, shard, sample in zip(lanes, shards.tolist(), samples.tolist(), strict=True)
        ]

    def _shuffled(self, code: int, lane: int, position: int, lane_length: int) -> int:
        """Where in a lane the sample of a position lies: shuffled within its window."""
        window, offset = divmod(position, self.order.shuffle_window)
        known = self.windows.get((code, lane))
        if known is None or known[0] != window:
            first = window * self.order.shuffle_window
            number = min(self.order.shuffle_window, lane_length - first)
            place = (self.epoch, code * self.order.batch_size + lane, window)
            known = window, first + permutation(self.order.seed, Purpose.window, place, number)
            self.windows[code, lane] = known
        return int(known[1][offset])


def locate_samples(segments: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shard, and number in the shard, of the samples at `places` of the concatenated segments."""
    ends = np.cumsum(segments[:, 2])
    number = np.searchsorted(ends, places, side="right")
    shard, first, samples = segments[number].T
    return shard, first + places - (ends[number] - samples)


def make_order(
    manifest: ShardManifest, seed: int, batch_size: int, shuffle_window: int, overfit: int = 0
) -> Order:
    """The order of a run over a shard folder.

    `overfit` > 0 keeps the manifest's first samples only, repeated to fill a batch.
    Raises `InputError` where no bucket fills a global batch.
    """
    buckets = [Bucket(name, segments) for name, segments in _segments(manifest, overfit).items()]
    if overfit:
        buckets = [
            replace(b, segments=np.tile(b.segments, (-(-batch_size // b.samples), 1)))
            for b in buckets
        ]
    order = Order(seed, batch_size, shuffle_window, tuple(buckets))
    if order.batches_per_epoch == 0:
        largest = max((bucket.samples for bucket in buckets), default=0)
        raise InputError(
            f"{str(manifest.root)!r} has {largest} samples in its largest bucket, less than one "
            f"global batch of data.batch_size={batch_size}; use data.batch_size={largest} or less"
            if largest
            else f"{str(manifest.root)!r} has no samples; prepare the shards again"
        )
    return order


def _segments(manifest: ShardManifest, limit: int) -> dict[str, np.ndarray]:
    """Segments by bucket, of the first `limit` samples in the manifest's order (0: of all)."""
    rows: dict[str, list[tuple[int, int, int]]] = {}
    left = limit or sum(record.samples for record in manifest.shards)
    for number, record in enumerate(manifest.shards):
        samples = min(record.samples, left)
        left -= samples
        if samples:
            rows.setdefault(record.bucket, []).append((number, 0, samples))
    return {bucket: np.array(values, np.int64) for bucket, values in rows.items()}


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
    manifest: ShardManifest, share: Share, limit: int, batch_size: int
) -> list[list[Slot]]:
    """A rank's share of the first `limit` samples, each sample on one rank, once.

    Of each bucket a rank takes samples rank, rank + world_size, ...; a batch has one bucket, and
    the last batch of a bucket may be smaller. `counter` is the sample's number in the manifest.
    """
    batches = []
    counter = 0
    for code, segments in enumerate(_segments(manifest, limit).values()):
        total = int(segments[:, 2].sum())
        places = np.arange(share.rank, total, share.world_size)
        shards, samples = locate_samples(segments, places)
        slots = [
            Slot(counter + int(place), code, int(shard), int(sample))
            for place, shard, sample in zip(places, shards, samples, strict=True)
        ]
        batches += [slots[i : i + batch_size] for i in range(0, len(slots), batch_size)]
        counter += total
    return batches
