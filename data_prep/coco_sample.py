"""One image -> one composited-foreground sample, a function of settings and image alone."""

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anyscene.data.sample import Element, Meta
from anyscene.errors import InputError
from data_prep.boxes import Box, as_uint8
from data_prep.buckets import Size, by_nearness
from data_prep.coco_annotations import TRUTH_NAME, ImageRecord
from data_prep.framing import Coverage, Framing, number_elements, reduced_size, soften, union
from data_prep.images import LARGEST_REDUCTION, LOSSLESS_SIDE, encode_mask, encode_scene
from data_prep.instances import Instance, contact_distance, decode_instances, touching_groups
from data_prep.mask_quality import mask_quality
from data_prep.preparation import Outcome, RejectedError, Sample
from data_prep.selection import Choice, choose_groups

TRUTH_IMAGES = ("shadow", "shadow_swapped")  # keys of truth.jsonl whose value is a PNG's path
MOST_ELEMENTS = 255  # that elements.png can number
LOW_QUALITY = "group: a mask's edge that does not follow the image's"


@dataclass(frozen=True)
class Settings:
    """How images become samples."""

    source: str  # name of the data set, the beginning of every key
    seed: int = 0
    buckets: tuple[Size, ...] = ((512, 512),)
    soften: float = 1.0  # sigma of a mask's soft edge, in pixels of the scene
    min_area_share: float = 0.02  # of a group, of the scene's area
    max_area_share: float = 0.8  # of the foreground
    min_scale: float = 0.5  # pixels of the image for one of the scene, along an axis
    min_mask_quality: float = 0.0  # of each element of a group
    truth: Path | None = None  # folder of the images that truth.jsonl names

    def check(self) -> None:
        """Raises `InputError` for values that cannot work."""
        if not re.fullmatch(r"[\w-]+", self.source):
            raise InputError(
                f"source={self.source!r} must be letters, digits, '-' and '_': it names files"
            )
        if self.seed < 0:
            raise InputError(f"seed={self.seed} must not be negative")
        if not 0 <= self.soften < math.inf:
            raise InputError(
                f"soften={self.soften} must be finite and not negative; 0 leaves edges as they are"
            )
        if not 0 <= self.min_area_share < self.max_area_share <= 1:
            raise InputError(
                f"min_area_share={self.min_area_share} and max_area_share={self.max_area_share} "
                "must be rising and within 0 and 1"
            )
        if any(length < 1 for bucket in self.buckets for length in bucket):
            raise InputError(f"buckets={self.buckets} must have sides of at least 1 pixel")
        if not 0 <= self.min_scale < math.inf:
            raise InputError(
                f"min_scale={self.min_scale} must be finite and not negative; 0 takes any image"
            )
        if not 0 <= self.min_mask_quality <= 1:
            raise InputError(
                f"min_mask_quality={self.min_mask_quality} must be from 0, which takes any, to 1"
            )

    def filters(self) -> dict[str, Any]:
        """What a manifest has of the settings beside source and seed."""
        values = vars(self).copy()
        for name in ("source", "seed", "truth"):
            del values[name]
        return values | {"buckets": [f"{height}x{width}" for height, width in self.buckets]}


@dataclass(frozen=True)
class Placed:
    """An instance in the crop."""

    instance: Instance
    coverage: Coverage
    quality: float


@dataclass(frozen=True)
class PlacedGroup:
    """A group in the crop, and what it covers as one: no seam where its instances meet."""

    instances: list[Placed]
    coverage: Coverage


def make_sample(
    settings: Settings, record: ImageRecord, read_scene: Callable[[int], NDArray[np.uint8]]
) -> Outcome:
    """The image's sample, or the reason why there is none.

    `read_scene` gives the image as its masks see it, as `decode_image` does, reduced by 1, 2, 4
    or 8.
    """
    cv2.setNumThreads(1)
    rejected: Counter[str] = Counter()
    try:
        sample = _sample(settings, record, read_scene, rejected)
    except RejectedError as error:
        rejected[f"image: {error}"] += 1
        sample = None
    return Outcome(sample, rejected)


def _sample(
    settings: Settings,
    record: ImageRecord,
    read_scene: Callable[[int], NDArray[np.uint8]],
    rejected: Counter[str],
) -> Sample:
    if not record.annotations:
        raise RejectedError("no annotations")
    if record.captions is not None and not record.captions:
        raise RejectedError("no captions")
    random = np.random.default_rng([settings.seed, record.image_id])
    choice = _choose(settings, record, random)
    rejected.update(choice.rejected)
    if not choice.groups:
        raise RejectedError("no acceptable group")
    framing, corner = choice.framing, choice.window.draw(random)
    scene = _read(record, framing, corner, read_scene)
    taken = _place(choice, scene, corner, settings.min_mask_quality, rejected)
    placed = [instance for group in taken for instance in group.instances]
    if len(placed) > MOST_ELEMENTS:
        raise RejectedError(f"more than {MOST_ELEMENTS} elements")
    coverages = [entry.coverage for entry in placed]
    numbers, seen = number_elements(coverages, framing.bucket)
    if not seen:
        raise RejectedError("no element that can be seen at this size")
    if hidden := len(placed) - len(seen):
        rejected["element: cannot be seen"] += hidden
    elements = [
        _describe(placed[index], numbers, number) for number, index in enumerate(seen, start=1)
    ]
    lossless = record.file_name.lower().endswith(".png") or _is_small(framing.bucket)
    meta = _meta(settings, record, framing, corner, elements)
    mask = soften(union([group.coverage for group in taken], framing.bucket), settings.soften)
    members = {
        "scene.png" if lossless else "scene.jpg": encode_scene(scene, lossless=lossless),
        "mask.png": encode_mask(mask),
        "elements.png": encode_mask(numbers),
        "meta.json": json.dumps(meta, sort_keys=True).encode(),
    }
    return Sample(meta["key"], meta["bucket"], members)


def _choose(settings: Settings, record: ImageRecord, random: np.random.Generator) -> Choice:
    height, width = record.height, record.width
    framings = [
        framing
        for bucket in by_nearness(settings.buckets, height, width)
        if (framing := Framing(height, width, bucket)).scale * settings.min_scale <= 1
    ]
    if not framings:
        raise RejectedError("too small for the scene")
    try:
        instances = decode_instances(record.annotations, height, width)
    except ValueError:
        raise RejectedError("missing or damaged segmentation") from None
    return choose_groups(
        touching_groups(instances, contact_distance(height, width)),
        [instance for instance in instances if instance.annotation.crowd],
        framings,
        area_shares=(settings.min_area_share, settings.max_area_share),
        random=random,
    )


def _read(
    record: ImageRecord,
    framing: Framing,
    corner: tuple[int, int],
    read_scene: Callable[[int], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """The scene.

    Where a reduced image hides that its size is not the annotation's, the difference is less than
    a pixel of the scene.
    """
    reduction = min(framing.reduction, LARGEST_REDUCTION)
    image = read_scene(reduction)
    if image.shape[:2] != reduced_size((record.height, record.width), reduction):
        raise RejectedError("size differs from the annotation's")
    return framing.apply(image, corner, reduction)


def _place(
    choice: Choice,
    scene: NDArray[np.uint8],
    corner: tuple[int, int],
    least_quality: float,
    rejected: Counter[str],
) -> list[PlacedGroup]:
    """The groups whose masks are good enough."""
    placed: list[PlacedGroup] = []
    for group in choice.groups:
        members = []
        for instance in group.instances:
            coverage = choice.framing.cover(instance.runs.inside, instance.box, corner)
            members.append(Placed(instance, coverage, mask_quality(scene, coverage)))
        if min(member.quality for member in members) < least_quality:
            rejected[LOW_QUALITY] += 1
        elif len(members) == 1:
            placed.append(PlacedGroup(members, members[0].coverage))
        else:
            together = choice.framing.cover(group.inside, group.box, corner)
            placed.append(PlacedGroup(members, together))
    if not placed:
        raise RejectedError("no acceptable group")
    return placed


def _describe(placed: Placed, numbers: NDArray[np.uint8], number: int) -> Element:
    place = placed.coverage.box
    pixels = (place.cut(numbers) == number).astype(np.uint8)
    box = Box.around(pixels)
    return Element(
        annotation_id=placed.instance.annotation.annotation_id,
        category=placed.instance.annotation.category,
        box_xywh=[
            place.left + box.left,
            place.top + box.top,
            box.right - box.left,
            box.bottom - box.top,
        ],
        area_share=round(int(pixels.sum()) / numbers.size, 6),
        mask_quality=round(placed.quality, 3),
    )


def _is_small(bucket: Size) -> bool:
    return bucket[0] * bucket[1] <= LOSSLESS_SIDE**2


def _meta(
    settings: Settings,
    record: ImageRecord,
    framing: Framing,
    corner: tuple[int, int],
    elements: list[Element],
) -> Meta:
    height, width = framing.bucket
    return Meta(
        key=f"{settings.source}-{record.name}",
        source=settings.source,
        image_id=record.image_id,
        captions=list(record.captions or [_caption(elements)]),
        size=[height, width],
        original_size=[record.height, record.width],
        crop_top_left=list(corner),
        bucket=f"{height}x{width}",
        licence=record.licence,
        elements=elements,
        truth=_truth(settings, record, framing, corner),
    )


def _caption(elements: Sequence[Element]) -> str:
    names = dict.fromkeys(element["category"] for element in elements)
    nouns = [f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}" for name in names]
    return f"a photo of {' and '.join(nouns)}"


def _truth(
    settings: Settings, record: ImageRecord, framing: Framing, corner: tuple[int, int]
) -> dict[str, Any] | None:
    """The image's line of truth.jsonl with its images inlined, framed as the scene is."""
    if settings.truth is None or record.truth is None:
        return None
    values = dict(record.truth)
    for key in TRUTH_IMAGES:
        if key not in values:
            continue
        path = settings.truth / values[key]
        if not path.is_file():
            raise InputError(f"{TRUTH_NAME}, image {record.image_id}, {key}: no such file: {path}")
        data = path.read_bytes()
        if not framing.keeps_pixels():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise InputError(f"{path} is not an image")
            data = encode_scene(framing.apply(as_uint8(image), corner), lossless=True)
        values[key] = base64.b64encode(data).decode()
    return values
