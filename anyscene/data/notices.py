"""What is said of the data when a run begins: what is trained on, and what makes reading slow."""

import logging
from collections.abc import Sequence

from anyscene.data.index import index_path
from anyscene.data.mixing import DataSet, effective_shares, untrained
from anyscene.data.sources import Shards
from anyscene.data.stream import Order, Pool, Share

log = logging.getLogger(__name__)


def log_order(order: Order, sets: Sequence[DataSet]) -> None:
    """What an epoch holds of each data set, and what is never trained on."""
    slots = order.batches_per_epoch * order.batch_size
    shares = effective_shares(order, len(sets))
    log.info(
        "%s: %d samples, %d batches of %d an epoch, %d samples left out of each",
        sets[0].location,
        sets[0].samples(),
        order.batches_per_epoch,
        order.batch_size,
        sets[0].samples() - round(shares[0] * slots),
    )
    for data_set, share in zip(sets[1:], shares[1:], strict=True):
        log.info(
            "%s: %d samples, weight %g; %.4g samples for each of %s, passed %.3g times an epoch",
            data_set.location,
            data_set.samples(),
            data_set.weight,
            share / shares[0],
            sets[0].location,
            share * slots / data_set.samples(),
        )
    for data_set, name in untrained(order, sets):
        log.warning(
            "%s: bucket %s has %d samples, too few for data.batch_size=%d: never trained on",
            data_set.location,
            name,
            data_set.samples(name),
            order.batch_size,
        )


def log_indexes(sources: Sequence[Shards]) -> None:
    """Which local data sets have shards without an index."""
    for source in sources:
        if source.fetched:
            continue  # its indexes are made when its shards are fetched
        paths = [source.path(number) for number in range(len(source.shards))]
        missing = sum(not index_path(path).is_file() for path in paths)
        if missing:
            log.info(
                "%s: %d of %d shards have no index: their headers are scanned, and damage that a "
                "JPEG does not reveal is not seen",
                source.location,
                missing,
                len(paths),
            )


def log_cache(order: Order, sources: Sequence[Shards], share: Share, limit_bytes: int) -> None:
    """Whether the cache is too small for the fetched shards that a rank reads at a time."""
    needed = sum(
        bytes_in_use(pool, sources[pool.data_set], order.shuffle_window, share.world_size)
        for bucket in order.buckets
        for pool in bucket.pools
        if sources[pool.data_set].fetched
    )
    if needed > limit_bytes:
        log.warning(
            "data.cache_gb=%g is less than the %.3g GB of shards that a device reads at a time: "
            "they will be fetched again and again; raise data.cache_gb or lower "
            "data.shuffle_window",
            limit_bytes / 1e9,
            needed / 1e9,
        )


def bytes_in_use(pool: Pool, source: Shards, shuffle_window: int, world_size: int) -> float:
    """Bytes of the shards that the windows of a rank's share of the pool's lanes lie in.

    A window of a lane begins and ends anywhere in a shard, so it is a shard longer than its
    samples.
    """
    total = sum(record.bytes for record in source.shards)
    sample = total / sum(record.samples for record in source.shards)
    window = min(shuffle_window, pool.lane_length) * sample + total / len(source.shards)
    return min(pool.lanes / world_size * window, pool.samples * sample)
