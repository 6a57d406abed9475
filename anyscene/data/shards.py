"""Batches out of tar shards: a list of stages."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

from torch.utils.data import get_worker_info
from webdataset.pipeline import DataPipeline

from anyscene.data.fetch_ahead import fetch_ahead
from anyscene.data.random import Purpose, random_words
from anyscene.data.reader import ShardReader
from anyscene.data.sample import HostBatch
from anyscene.data.sources import Shards
from anyscene.data.stream import (
    Order,
    Share,
    Slot,
    train_micro_batches,
    validation_batches,
)
from anyscene.data.transforms import Loaded, StreamItem, collate
from anyscene.errors import AnySceneError, DamageError, InputError

REPLACEMENT_TRIES = 32
"""Samples tried for one slot before its bucket is given up."""

Replacement = Callable[[Slot, int], Slot]
"""Another slot for (slot, attempt), see `Order.replacement`."""


def train_pipeline(shards: Shards, order: Order, share: Share, start_step: int) -> DataPipeline:
    """`StreamItem`s: a rank's micro-batches from an optimizer step on, without end."""
    return DataPipeline(
        partial(train_slots, order, share, start_step),  # where the next samples are
        partial(fetch_ahead, shards),  # remote shards of the next batches, meanwhile
        partial(load, shards, order.replacement),  # their members, decoded; damaged ones replaced
        partial(choose_captions, order.seed),
        collate,
        hand_over_errors,
    )


def validation_pipeline(shards: Shards, share: Share, limit: int, batch_size: int) -> DataPipeline:
    """`StreamItem`s: a rank's share of the first `limit` samples, each once, in order.

    A damaged sample is left out.
    """
    return DataPipeline(
        partial(validation_slots, validation_batches(shards, share, limit, batch_size)),
        partial(fetch_ahead, shards),
        partial(load, shards, None),
        first_captions,
        collate,
        hand_over_errors,
    )


def read_batches(shards: Shards, limit: int, batch_size: int = 64) -> list[HostBatch]:
    """The first `limit` scenes in this process, without the damaged ones.

    Raises `InputError` where they are cached, none is whole, or they are of several sizes.
    """
    batches: list[HostBatch] = []
    for item in validation_pipeline(shards, Share(), limit, batch_size):
        if isinstance(item, Exception):
            raise item
        if isinstance(item, list):  # the damage of a batch of which nothing is left
            continue
        if "scene_uint8" not in item:
            raise InputError(
                f"{shards.location!r} is a cache and has no scenes; give the shards that it was "
                "made from"
            )
        batches.append(item)
    sizes = {tuple(batch["scene_uint8"].shape[2:]) for batch in batches}
    if len(sizes) != 1:
        raise InputError(
            f"{shards.location!r} has samples of {len(sizes)} sizes; one size is needed here"
            if sizes
            else f"{shards.location!r} has no whole scene; see `anyscene prepare verify`"
        )
    return batches


def train_slots(order: Order, share: Share, start_step: int) -> Iterator[list[Slot]]:
    """The micro-batches of this loader worker."""
    return train_micro_batches(order, share, start_step, *_worker())


def validation_slots(batches: list[list[Slot]]) -> Iterator[list[Slot]]:
    """The validation batches of this loader worker."""
    worker, workers = _worker()
    return iter(batches[worker::workers])


def _worker() -> tuple[int, int]:
    """Number of this loader worker, and how many there are."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


def load(
    shards: Shards,
    replacement: Replacement | None,
    batches: Iterable[list[Slot]],
) -> Iterator[Loaded]:
    """Read and decode. A damaged sample is replaced by `replacement(slot, attempt)`, or left out.

    Raises `DamageError` where no replacement is whole.
    """
    with closing(ShardReader(shards)) as reader:
        for slots in batches:
            loaded = Loaded(len(slots))
            for slot in slots:
                load_one(reader, slot, replacement, loaded)
            yield loaded


def load_one(
    reader: ShardReader, slot: Slot, replacement: Replacement | None, loaded: Loaded
) -> None:
    """Add the sample of a slot, or else its replacement, to `loaded`."""
    candidate = slot
    for attempt in range(1, REPLACEMENT_TRIES + 1):
        try:
            loaded.add(reader.sample(candidate))
            return
        except DamageError as error:
            loaded.damage.append(str(error))
        if replacement is None:
            return
        candidate = replacement(slot, attempt)
    raise DamageError(
        f"{REPLACEMENT_TRIES} samples in a row are damaged, the last one: {loaded.damage[-1]}; "
        "check the shards with `anyscene prepare verify`"
    )


def choose_captions(seed: int, batches: Iterable[Loaded]) -> Iterator[Loaded]:
    """One of each sample's captions, a function of (seed, slot)."""
    for batch in batches:
        for sample in batch.samples:
            captions = sample.meta["captions"]
            word = random_words(seed, Purpose.caption, (sample.slot.counter,), 1)[0]
            sample.prompt = captions[int(word) % len(captions)]
        yield batch


def first_captions(batches: Iterable[Loaded]) -> Iterator[Loaded]:
    """Each sample's first caption."""
    for batch in batches:
        for sample in batch.samples:
            sample.prompt = sample.meta["captions"][0]
        yield batch


def hand_over_errors(batches: Iterable[StreamItem]) -> Iterator[StreamItem]:
    """Give an error that ends the stream to the training process as a last item, in one line."""
    try:
        yield from batches
    except (AnySceneError, DamageError) as error:
        yield error
