"""The samples that scenes are built from: read from shards, without torch."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anyscene.data.index import tar_members
from anyscene.data.sample import Meta, ShardManifest
from anyscene.errors import DamageError, InputError
from data_prep.boxes import as_uint8

Pixels = NDArray[np.uint8]

HELD = 32  # decoded samples


@dataclass(frozen=True)
class Source:
    """A real scene and its elements."""

    meta: Meta
    scene_name: str  # scene.png or scene.jpg
    scene_bytes: bytes  # as stored
    scene: Pixels  # H W 3, blue first
    mask: Pixels  # H W, 255 = foreground
    numbers: Pixels  # H W, element numbers


class SourceReader:
    """Random access to the samples of a shard folder by key; few are held in memory."""

    def __init__(self, manifest: ShardManifest) -> None:
        """Read what is known of every sample. Raises `InputError` for cached shards: they have no
        scenes."""
        if manifest.base is not None:
            raise InputError(
                f"{manifest.location!r} is a cache and has no scenes; give the shards that it was "
                "made from"
            )
        self._members: dict[str, dict[str, Member]] = defaultdict(dict)
        for number in range(len(manifest.shards)):
            path = manifest.path(number)
            for member in tar_members(path):
                key, _, suffix = member.name.partition(".")
                self._members[key][suffix] = Member(path, member.offset_data, member.size)
        self.metas: list[Meta] = [
            json.loads(members["meta.json"].read()) for members in self._members.values()
        ]
        self.read = lru_cache(HELD)(self._read)

    def _read(self, key: str) -> Source:
        return decode({suffix: member.read() for suffix, member in self._members[key].items()})


class Member(NamedTuple):
    """Where a member of a sample lies."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


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
