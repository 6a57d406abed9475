"""What a shard folder holds, counted over its samples' descriptions in one pass."""

import heapq
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import Meta, ShardManifest, ShardRecord
from anyscene.errors import DamageError
from data_prep.category_words import UNNAMED, names

BINS = 20  # of a histogram over [0, 1]
EXAMPLES = 12  # samples named as examples


@dataclass
class CategoryCounts:
    """How often a category is a foreground."""

    elements: int = 0
    samples: int = 0
    unnamed: int = 0  # samples of which no caption names it


@dataclass(frozen=True)
class Unnamed:
    """A sample whose captions name none of its categories."""

    key: str
    categories: list[str]
    captions: list[str]


@dataclass
class Statistics:
    """Counts over all samples."""

    samples: int = 0
    categories: dict[str, CategoryCounts] = field(default_factory=dict)
    elements: Counter[int] = field(default_factory=Counter)  # samples by number of elements
    shares: Counter[int] = field(default_factory=Counter)  # samples by bin of foreground share
    quality: Counter[int] = field(default_factory=Counter)  # elements by bin of mask quality
    captions: Counter[int] = field(default_factory=Counter)  # samples by number of captions
    words: Counter[int] = field(default_factory=Counter)  # captions by number of words
    bytes: Counter[str] = field(default_factory=Counter)  # by member
    nameable: int = 0  # samples with a category that captions can name
    unnamed: int = 0  # of these, those of which no caption names any
    nameable_captions: int = 0  # captions of these samples
    unnamed_captions: int = 0  # of these, those that name none of their sample's categories
    unnamed_examples: list[Unnamed] = field(default_factory=list)
    worst_masks: list[tuple[float, str, str]] = field(default_factory=list)  # quality, key, what


def gather(manifest: ShardManifest) -> Statistics:
    """Count what the samples' descriptions say; pixels are not read.

    Raises `DamageError` for a shard that cannot be read so far.
    """
    statistics = Statistics()
    with tqdm(total=manifest.samples, desc="inspect", unit="sample", disable=None) as progress:
        for record in manifest.shards:
            for meta, sizes in read_descriptions(manifest.root / record.name, record):
                _count(statistics, meta)
                statistics.bytes.update(sizes)
                progress.update()
    return statistics


def read_index(path: Path, record: ShardRecord) -> ShardIndex:
    """Where a shard's members lie. Raises `DamageError` where the shard has not all its samples."""
    stored = index_path(path)
    index = ShardIndex.read(stored, record) if stored.is_file() else ShardIndex.scan(path)
    if len(index.keys) != record.samples:
        raise DamageError(f"{path} is damaged: `anyscene prepare verify` says where")
    return index


def read_descriptions(path: Path, record: ShardRecord) -> Iterator[tuple[Meta, dict[str, int]]]:
    """Each sample's description, and the bytes of its members, with one small read a sample.

    Raises `DamageError` where the shard is not whole so far.
    """
    index = read_index(path, record)
    with path.open("rb") as file:
        for sample, key in enumerate(index.keys):
            places = {suffix: (offset, size) for suffix, offset, size in index.members(sample)}
            try:
                offset, size = places["meta.json"]
                file.seek(offset)
                meta = json.loads(file.read(size))
            except (KeyError, ValueError):
                raise DamageError(f"{path}: {key}: meta.json is missing or damaged") from None
            yield meta, {suffix: size for suffix, (_, size) in places.items()}


def _count(statistics: Statistics, meta: Meta) -> None:
    elements, captions = meta["elements"], meta["captions"]
    statistics.samples += 1
    statistics.elements[len(elements)] += 1
    statistics.captions[len(captions)] += 1
    statistics.words.update(len(caption.split()) for caption in captions)
    statistics.shares[_bin(sum(element["area_share"] for element in elements))] += 1
    for element in elements:
        statistics.quality[_bin(element["mask_quality"])] += 1
        _category(statistics, element["category"]).elements += 1
    worst = [(element["mask_quality"], meta["key"], element["category"]) for element in elements]
    statistics.worst_masks = heapq.nsmallest(EXAMPLES, statistics.worst_masks + worst)
    _count_names(statistics, meta)


def _count_names(statistics: Statistics, meta: Meta) -> None:
    categories = sorted({element["category"] for element in meta["elements"]} - {UNNAMED})
    if not categories:
        return
    captions = meta["captions"]
    named = [[names(category, caption) for category in categories] for caption in captions]
    for category, by_caption in zip(categories, zip(*named, strict=True), strict=True):
        _category(statistics, category).samples += 1
        _category(statistics, category).unnamed += not any(by_caption)
    unnamed = sum(not any(by_category) for by_category in named)
    statistics.nameable += 1
    statistics.nameable_captions += len(captions)
    statistics.unnamed_captions += unnamed
    if unnamed == len(captions):
        statistics.unnamed += 1
        if len(statistics.unnamed_examples) < EXAMPLES:
            statistics.unnamed_examples.append(Unnamed(meta["key"], categories, captions))


def _category(statistics: Statistics, name: str) -> CategoryCounts:
    return statistics.categories.setdefault(name, CategoryCounts())


def _bin(share: float) -> int:
    return min(int(share * BINS), BINS - 1)
