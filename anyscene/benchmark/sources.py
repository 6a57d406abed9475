"""The samples that scenes are built from: read from shards, torch-free, in two passes."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anyscene.data.sample import Meta, ShardManifest
from anyscene.errors import DamageError, InputError
from data_prep.boxes import as_uint8
from data_prep.shards import read_samples

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """A real scene and its elements."""

    meta: Meta
    scene_name: str  # scene.png or scene.jpg
    scene_bytes: bytes  # as stored
    scene: Pixels  # H W 3, blue first
    mask: Pixels  # H W, 255 = foreground
    numbers: Pixels  # H W, element numbers


def read_metas(manifest: ShardManifest) -> list[Meta]:
    """What is known of every sample, in the order of the shards.

    Raises `InputError` for cached shards, which have no scenes.
    """
    if manifest.base is not None:
        raise InputError(
            f"{manifest.location!r} is a cache and has no scenes; give the shards that it was made "
            "from"
        )
    return [json.loads(members["meta.json"]) for _, members in _samples(manifest)]


def read_sources(manifest: ShardManifest, keys: set[str]) -> dict[str, Source]:
    """The samples of some keys, decoded."""
    return {key: decode(members) for key, members in _samples(manifest) if key in keys}


def _samples(manifest: ShardManifest) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number in range(len(manifest.shards)):
        yield from read_samples(manifest.path(number))


def decode(members: Mapping[str, bytes]) -> Source:
    """A sample's pixels. Raises `DamageError` for a member that is missing or damaged."""
    meta = json.loads(members["meta.json"])
    name = "scene.png" if "scene.png" in members else "scene.jpg"
    pictures = {}
    for member, flags in (
        (name, cv2.IMREAD_COLOR),
        ("mask.png", cv2.IMREAD_GRAYSCALE),
        ("elements.png", cv2.IMREAD_GRAYSCALE),
    ):
        data = np.frombuffer(members.get(member, b""), np.uint8)
        image = cv2.imdecode(data, flags) if len(data) else None
        if image is None:
            raise DamageError(f"{meta['key']}: {member} is missing or cannot be decoded")
        pictures[member] = as_uint8(image)
    return Source(meta, name, members[name], *pictures.values())


def chance(seed: int, *words: object) -> int:
    """A number of 64 bits that depends on seed and words alone: the order of all draws."""
    text = json.dumps([seed, *map(str, words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def stratified(
    metas: Sequence[Meta], count: int, seed: int, categories: Callable[[Meta], set[str]]
) -> list[Meta]:
    """`count` samples with the categories as even as the data allows, in the order of the draw.

    In each turn the category that the chosen ones show least is served, the rarest in the data
    first among equals, by the next of its samples in an order drawn from the seed. All samples,
    where there are not more.
    """
    waiting: dict[str, list[Meta]] = defaultdict(list)
    for meta in sorted(metas, key=lambda meta: chance(seed, meta["key"]), reverse=True):
        for category in categories(meta):
            waiting[category].append(meta)
    supply = {category: len(own) for category, own in waiting.items()}
    shown: Counter[str] = Counter()
    chosen: dict[str, Meta] = {}
    while waiting and len(chosen) < count:
        rarest = min(waiting, key=lambda name: (shown[name], supply[name], name))
        own = waiting[rarest]
        while own and own[-1]["key"] in chosen:
            own.pop()
        if not own:
            del waiting[rarest]
            continue
        meta = own.pop()
        chosen[meta["key"]] = meta
        shown.update(categories(meta))
    return list(chosen.values())


def prepared_coco(
    images: Path, instances: Path, captions: Path | None, work: Path, size: int, workers: int
) -> ShardManifest:
    """COCO's images as shards in the folder `work`, made as for training; continued if killed."""
    from data_prep.coco import CocoFiles, prepare_coco
    from data_prep.coco_sample import Settings

    return prepare_coco(
        CocoFiles(images, instances, captions),
        work,
        Settings("coco", seed=0, buckets=((size, size),)),
        split="benchmark",
        workers=workers,
    )
