"""A mix of data sets: fixed lanes, each data set's own passes, whoever reads."""

from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_files import manifest_of

from anyscene.data.mixing import (
    allot_lanes,
    data_sets,
    effective_shares,
    make_order,
    spread_lanes,
    untrained,
)
from anyscene.data.notices import bytes_in_use
from anyscene.data.sample import ShardManifest, ShardRecord
from anyscene.data.stream import Order, Share, Slot, train_micro_batches
from anyscene.errors import InputError


def manifest(*shards: tuple[str, int]) -> ShardManifest:
    return manifest_of(
        [ShardRecord(f"{n}.tar", samples, 0, "", name) for n, (name, samples) in enumerate(shards)]
    )


TRAIN = manifest(("8x8", 60), ("8x16", 40), ("8x8", 20))
OTHER = manifest(("8x8", 31), ("16x8", 25))
SMALL = manifest(("8x16", 5))
FIRST_SHARD = {"train": 0, "other": 3, "small": 5}


def mixed(batch_size: int = 16, seed: int = 3) -> Order:
    return make_order(TRAIN, seed, batch_size, 8, mix=[(OTHER, 0.5), (SMALL, 0.1)])


def batches(order: Order, number: int, start: int = 0) -> list[list[Slot]]:
    return list(islice(train_micro_batches(order, Share(), start), number))


def set_of(slot: Slot) -> int:
    """Number of the data set that a slot is from."""
    return sum(slot.shard >= first for first in FIRST_SHARD.values()) - 1


def test_largest_remainder() -> None:
    assert allot_lanes([1, 1, 1], 10) == [4, 3, 3]
    assert allot_lanes([0.6, 0.3, 0.1], 10) == [6, 3, 1]
    assert allot_lanes([1, 0.01], 8) == [8, 0]
    assert allot_lanes([0.0, 0.0], 8) == [0, 0]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.integers(1, 300))
def test_lanes_are_the_shares_within_one(shares: list[float], lanes: int) -> None:
    counts = allot_lanes(shares, lanes)
    if sum(shares):
        assert sum(counts) == lanes
        exact = np.array(shares) / sum(shares) * lanes
        assert np.abs(counts - exact).max() < 1


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any))
def test_lanes_are_spread_evenly(counts: list[int]) -> None:
    spread = spread_lanes(counts)
    owners = spread[:, 0]
    for owner, count in enumerate(counts):
        assert spread[owners == owner, 1].tolist() == list(range(count))
        given_by = np.cumsum(owners == owner)
        even = count * np.arange(1, len(owners) + 1) / len(owners)
        assert np.abs(given_by - even).max() <= max(1, len(counts) - 1)


def test_every_global_batch_has_the_same_mixture() -> None:
    order = mixed()
    by_bucket: dict[int, set[tuple[int, ...]]] = {}
    for batch in batches(order, 2 * order.batches_per_epoch):
        assert len({slot.bucket for slot in batch}) == 1
        assert [slot.data_set for slot in batch] == [set_of(slot) for slot in batch]
        lanes = Counter(set_of(slot) for slot in batch)
        by_bucket.setdefault(batch[0].bucket, set()).add(tuple(lanes[n] for n in range(3)))
    assert by_bucket == {0: {(11, 5, 0)}, 1: {(12, 0, 4)}, 2: {(0, 16, 0)}}


def test_weights_are_samples_for_each_of_the_first() -> None:
    sets = [manifest(("8x8", samples)) for samples in (4000, 900, 12000)]
    order = make_order(sets[0], 0, 100, 64, mix=[(sets[1], 0.25), (sets[2], 1.25)])
    assert effective_shares(order, 3) == [0.4, 0.1, 0.5]
    assert order.batches_per_epoch == 100


@pytest.mark.parametrize("seed", [0, 1])
def test_each_data_set_passes_on_its_own(seed: int) -> None:
    """Of each pool, a pass is without repetition and leaves out no more than the tail."""
    order = mixed(seed=seed)
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for batch in batches(order, 9 * order.batches_per_epoch):
        for slot in batch:
            seen.setdefault((set_of(slot), slot.bucket), []).append((slot.shard, slot.sample))
    assert set(seen) == {(0, 0), (0, 1), (1, 0), (1, 2), (2, 1)}
    for bucket in order.buckets:
        for pool in bucket.pools:
            read = seen[pool.data_set, order.buckets.index(bucket)]
            length = pool.lane_length * pool.lanes
            passes = [read[i : i + length] for i in range(0, len(read), length)]
            assert all(len(set(part)) == len(part) for part in passes)
            assert pool.samples - length < pool.lanes
            whole = [sorted(part) for part in passes if len(part) == length]
            assert len(whole) >= 2
            assert passes[0] != passes[1]


def test_an_epoch_is_a_pass_of_the_first() -> None:
    order = mixed()
    first = [
        (slot.shard, slot.sample)
        for batch in batches(order, order.batches_per_epoch)
        for slot in batch
        if set_of(slot) == 0
    ]
    assert len(first) == len(set(first)) == 80 // 11 * 11 + 40 // 12 * 12


@pytest.mark.parametrize("start", [0, 13])
def test_the_mix_is_the_same_for_all_ranks_and_workers(start: int) -> None:
    order = mixed()
    expected = batches(order, 40, start)
    assert expected == batches(order, 40 + start)[start:]
    for world_size, accumulate, workers in [(2, 1, 1), (2, 2, 2), (4, 2, 3), (16, 1, 5)]:
        together: list[list[Slot]] = [[] for _ in range(40)]
        for rank in range(world_size):
            share = Share(rank, world_size, accumulate)
            streams = [train_micro_batches(order, share, start, w, workers) for w in range(workers)]
            for number in range(40 * accumulate):
                together[number // accumulate] += next(streams[number % workers])
        assert together == expected


def test_each_rank_has_its_share_of_every_data_set() -> None:
    order = mixed()
    for batch in batches(order, 30):
        for number in range(3):
            of_ranks = [
                sum(set_of(slot) == number for slot in batch[i : i + 4]) for i in range(0, 16, 4)
            ]
            assert max(of_ranks) - min(of_ranks) <= 1


def test_a_replacement_is_from_the_same_data_set_and_bucket() -> None:
    order = mixed()
    for batch in batches(order, 20):
        for slot in batch:
            for attempt in (1, 2, 3):
                other = order.replacement(slot, attempt)
                assert (set_of(other), other.bucket) == (set_of(slot), slot.bucket)
                record = [*TRAIN.shards, *OTHER.shards, *SMALL.shards][other.shard]
                assert record.bucket == order.buckets[slot.bucket].name
                assert other.sample < record.samples


def test_a_mix_with_nothing_in_it_is_the_data_set_alone() -> None:
    alone = make_order(TRAIN, 3, 16, 8)
    assert batches(make_order(TRAIN, 3, 16, 8, mix=[]), 30) == batches(alone, 30)


def test_a_set_smaller_than_its_lanes_repeats_evenly() -> None:
    order = make_order(TRAIN, 0, 16, 8, mix=[(SMALL, 1.0)])
    read = [
        (slot.shard, slot.sample)
        for batch in batches(order, 40)
        if batch[0].bucket == 1
        for slot in batch
        if slot.shard == 3
    ]
    counts = Counter(read)
    assert len(counts) == 5
    assert max(counts.values()) <= 2 * min(counts.values())


def test_a_data_set_without_a_lane_is_an_error() -> None:
    with pytest.raises(InputError, match=r"weight 0.01 gets no lane .*; use data.batch_size=101"):
        make_order(manifest(("8x8", 500)), 0, 16, 8, mix=[(manifest(("8x8", 50)), 0.01)])
    assert make_order(manifest(("8x8", 500)), 0, 101, 8, mix=[(manifest(("8x8", 50)), 0.01)])
    with pytest.raises(InputError, match=r"weight 0.1 gives less than a global batch of 16"):
        make_order(manifest(("8x8", 50)), 0, 16, 8, mix=[(manifest(("16x16", 50)), 0.1)])
    with pytest.raises(InputError, match="has no samples"):
        make_order(manifest(("8x8", 50)), 0, 16, 8, mix=[(manifest(), 0.1)])


def test_buckets_that_nothing_is_read_from_are_known() -> None:
    train = manifest(("8x8", 50), ("8x16", 3))
    mix = [(manifest(("8x8", 10), ("16x8", 2)), 1.0)]
    sets = data_sets(train, mix)
    order = make_order(train, 0, 16, 8, mix=mix)
    assert [(sets[0] is data_set, name) for data_set, name in untrained(order, sets)] == [
        (True, "8x16"),
        (False, "16x8"),
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.05, 4),
            st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), min_size=1, max_size=4),
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 24),
)
def test_any_mix_reads_existing_samples_of_one_bucket(
    sets: list[tuple[float, list[tuple[str, int]]]], batch_size: int
) -> None:
    manifests = [(manifest(*shards), weight) for weight, shards in sets]
    records = [record for shards, _ in manifests for record in shards.shards]
    try:
        order = make_order(manifests[0][0], 1, batch_size, 4, mix=manifests[1:])
    except InputError:
        return
    for batch in batches(order, 2 * order.batches_per_epoch + 3):
        assert len(batch) == batch_size
        assert {records[slot.shard].bucket for slot in batch} == {
            order.buckets[batch[0].bucket].name
        }
        assert all(0 <= slot.sample < records[slot.shard].samples for slot in batch)


def test_shards_that_a_rank_reads_at_a_time() -> None:
    """Ten shards of 100 samples and 1 MB: two of four lanes, windows of 50 samples."""
    records = [ShardRecord(f"{n}.tar", 100, 10**6, "", "8x8") for n in range(10)]
    shards = SimpleNamespace(shards=records)
    (bucket,) = make_order(manifest_of(records), 0, 4, 50).buckets
    assert bytes_in_use(bucket.pools[0], shards, 50, 2) == 2 * 1.5e6  # type: ignore[arg-type]
    assert bytes_in_use(bucket.pools[0], shards, 10**6, 1) == 10e6  # type: ignore[arg-type]
