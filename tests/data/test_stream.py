"""The order is a pure function that covers every sample and does not depend on who reads it."""

import hashlib
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import manifest_of

from anyscene.data.mixing import make_order
from anyscene.data.sample import ShardManifest, ShardRecord
from anyscene.data.stream import (
    Order,
    Share,
    Slot,
    train_micro_batches,
    validation_batches,
)
from anyscene.errors import ConfigError, InputError


def manifest(*shards: tuple[str, int]) -> ShardManifest:
    """A manifest of shards given as (bucket, samples)."""
    return manifest_of(
        [
            ShardRecord(f"{number}.tar", samples, 0, "", bucket)
            for number, (bucket, samples) in enumerate(shards)
        ]
    )


TWO_BUCKETS = manifest(("8x8", 30), ("8x8", 21), ("8x16", 40), ("8x8", 27), ("8x16", 9))


def epoch(order: Order, number: int) -> list[list[Slot]]:
    """All global batches of an epoch."""
    plan = order.plan(number)
    lanes = range(order.batch_size)
    return [plan.slots(batch, lanes) for batch in range(order.batches_per_epoch)]


def sources(batches: list[list[Slot]]) -> list[tuple[int, int]]:
    """Shard and sample of each slot."""
    return [(slot.shard, slot.sample) for batch in batches for slot in batch]


def global_batches(
    order: Order, world_size: int, accumulate: int, workers: int, start: int, steps: int
) -> list[list[Slot]]:
    """The global batches that simulated ranks and workers put together."""
    batches: list[list[Slot]] = [[] for _ in range(steps)]
    for rank in range(world_size):
        share = Share(rank, world_size, accumulate)
        streams = [
            train_micro_batches(order, share, start, worker, workers) for worker in range(workers)
        ]
        for number in range(steps * accumulate):
            batches[number // accumulate] += next(streams[number % workers])
    return batches


def test_each_epoch_holds_every_sample_but_the_tail_once() -> None:
    order = make_order(TWO_BUCKETS, seed=5, batch_size=8, shuffle_window=4)
    assert order.batches_per_epoch == 78 // 8 + 49 // 8
    everything = {
        (shard, sample)
        for shard, record in enumerate(TWO_BUCKETS.shards)
        for sample in range(record.samples)
    }
    tails = []
    for number in range(6):
        batches = epoch(order, number)
        seen = sources(batches)
        assert len(seen) == len(set(seen)) == order.batches_per_epoch * 8
        tails.append(frozenset(everything - set(seen)))
        assert len(tails[-1]) == 78 % 8 + 49 % 8
        assert all(len({slot.bucket for slot in batch}) == 1 for batch in batches)
        for slot in (slot for batch in batches for slot in batch):
            assert TWO_BUCKETS.shards[slot.shard].bucket == order.buckets[slot.bucket].name
    assert len(set(tails)) == 6


def test_tail_differs_with_a_single_shard() -> None:
    order = make_order(manifest(("8x8", 21)), seed=0, batch_size=4, shuffle_window=100)
    lost = [set(range(21)) - {sample for _, sample in sources(epoch(order, e))} for e in range(20)]
    assert all(len(tail) == 1 for tail in lost)
    assert len(set().union(*lost)) > 6


def test_order_is_a_function_of_seed_and_epoch() -> None:
    one, two = (make_order(TWO_BUCKETS, 1, 4, 16) for _ in range(2))
    assert epoch(one, 3) == epoch(two, 3)
    plan = one.plan(3)
    backwards = [plan.slots(b, range(4)) for b in reversed(range(one.batches_per_epoch))]
    assert backwards[::-1] == epoch(two, 3)
    assert sources(epoch(one, 3)) != sources(epoch(one, 4))
    assert sources(epoch(one, 3)) != sources(epoch(make_order(TWO_BUCKETS, 2, 4, 16), 3))


def test_order_stays_what_it_was() -> None:
    """A golden value: a changed order would silently break every resume."""
    order = make_order(TWO_BUCKETS, seed=0, batch_size=4, shuffle_window=8)
    golden = {
        0: [(0, 0, 3, 7), (1, 0, 3, 22), (2, 0, 1, 13), (3, 0, 0, 18)],
        37: [(148, 0, 1, 11), (149, 0, 0, 8), (150, 0, 3, 3), (151, 0, 3, 16)],
    }
    for step, slots in golden.items():
        batch = next(train_micro_batches(order, Share(), step))
        assert [slot[:4] for slot in batch] == slots


def test_order_of_many_steps_stays_what_it_was() -> None:
    """The same, as a checksum over five runs of 100 steps with a replacement each."""
    digest = hashlib.sha256()
    for seed, batch_size, window, overfit in [
        (0, 4, 8, 0),
        (5, 8, 4, 0),
        (2**40 + 1, 12, 4096, 0),
        (3, 8, 16, 33),
        (3, 8, 16, 1),
    ]:
        order = make_order(TWO_BUCKETS, seed, batch_size, window, overfit)
        for slots in islice(train_micro_batches(order, Share(), 0), 100):
            digest.update(json.dumps([slot[:4] for slot in slots]).encode())
            digest.update(json.dumps(order.replacement(slots[-1], 3)[:4]).encode())
    golden = "46d0fef4652aac26599f54337448a1b084a2ca7687b69cf3dede0a5798a8bd03"
    assert digest.hexdigest() == golden


def test_counters_number_the_slots_of_a_run() -> None:
    order = make_order(TWO_BUCKETS, seed=0, batch_size=4, shuffle_window=8)
    slots = [s for b in islice(train_micro_batches(order, Share(), 0), 70) for s in b]
    assert [slot.counter for slot in slots] == list(range(280))
    assert order.locate(70) == divmod(70, order.batches_per_epoch)


@pytest.mark.parametrize("start", [0, 11, 47])
def test_global_batches_are_the_same_for_all_ranks_workers_and_accumulation(start: int) -> None:
    order = make_order(TWO_BUCKETS, seed=9, batch_size=8, shuffle_window=8)
    expected = global_batches(order, 1, 1, 1, 0, start + 40)[start:]
    for world_size, accumulate, workers in [(1, 1, 2), (2, 1, 1), (2, 2, 2), (4, 2, 3), (8, 1, 5)]:
        assert global_batches(order, world_size, accumulate, workers, start, 40) == expected


def test_ranks_read_shards_of_their_own() -> None:
    order = make_order(manifest(*[("8x8", 50)] * 8), seed=0, batch_size=8, shuffle_window=16)
    plan = order.plan(0)
    shards = [
        {s.shard for b in range(order.batches_per_epoch) for s in plan.slots(b, lanes)}
        for lanes in (Share(rank, 4).lanes(8, 0) for rank in range(4))
    ]
    assert all(len(of_rank) <= 3 for of_rank in shards)  # two whole ones' worth, at any offset


def test_batch_size_that_does_not_divide() -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size=10 .* of 4 .*; use 8 or 12$"):
        Share(0, 2, 2).lanes(10, 0)
    with pytest.raises(ConfigError, match=r"use 4$"):
        Share(0, 4, 1).lanes(3, 0)


def test_too_few_samples() -> None:
    with pytest.raises(InputError, match=r"has 78 samples .* use data.batch_size=78 or less"):
        make_order(TWO_BUCKETS, 0, 100, 16)
    with pytest.raises(InputError, match="has no samples"):
        make_order(manifest(), 0, 4, 16)


@pytest.mark.parametrize("number", [1, 4, 33])
def test_overfit_repeats_the_first_samples(number: int) -> None:
    order = make_order(TWO_BUCKETS, seed=0, batch_size=8, shuffle_window=16, overfit=number)
    batches = list(islice(train_micro_batches(order, Share(), 0), 40))
    first = [(0, i) for i in range(30)] + [(1, i) for i in range(21)]
    assert set(sources(batches)) == set(first[:number])
    assert [len(batch) for batch in batches] == [8] * 40


def test_replacement_is_a_function_of_slot_and_attempt() -> None:
    order = make_order(TWO_BUCKETS, seed=0, batch_size=8, shuffle_window=16)
    slot = order.plan(0).slots(0, range(3, 4))[0]
    tries = [order.replacement(slot, attempt) for attempt in range(1, 40)]
    assert tries == [order.replacement(slot, attempt) for attempt in range(1, 40)]
    assert {t.counter for t in tries} == {slot.counter}
    assert {TWO_BUCKETS.shards[t.shard].bucket for t in tries} == {order.buckets[slot.bucket].name}
    assert len({(t.shard, t.sample) for t in tries}) > 20


@pytest.mark.parametrize("limit", [1, 20, 33, 127, 500])
def test_validation_takes_each_sample_once(limit: int) -> None:
    first = [(n, i) for n, r in enumerate(TWO_BUCKETS.shards) for i in range(r.samples)][:limit]
    for world_size in (1, 2, 3):
        ranks = [validation_batches(TWO_BUCKETS, Share(r, world_size), limit, 4) for r in range(3)]
        batches = [batch for rank in ranks[:world_size] for batch in rank]
        assert sorted(sources(batches)) == first
        assert all(len({slot.bucket for slot in batch}) == 1 for batch in batches)
        counters = sorted(slot.counter for batch in batches for slot in batch)
        assert counters == list(range(len(first)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(1, 50),
    st.integers(0, 2**63),
)
def test_any_epoch_is_without_repetition(
    counts: list[int], batch_size: int, window: int, seed: int
) -> None:
    shards = manifest(*(("8x8", samples) for samples in counts))
    if sum(counts) < batch_size:
        with pytest.raises(InputError):
            make_order(shards, seed, batch_size, window)
        return
    order = make_order(shards, seed, batch_size, window)
    seen = sources(epoch(order, 2))
    assert len(set(seen)) == len(seen) == sum(counts) // batch_size * batch_size
    assert all(0 <= sample < counts[shard] for shard, sample in seen)


def test_lanes_are_mixed() -> None:
    """Neighbours of a lane are as far apart as in a random order of a window: a third of it."""
    order = make_order(manifest(("8x8", 4000)), seed=0, batch_size=4, shuffle_window=500)
    lane = np.array([batch[0].sample for batch in epoch(order, 0)])
    jumps = np.abs(np.diff(lane))
    assert 120 < np.minimum(jumps, 4000 - jumps).mean() < 220
