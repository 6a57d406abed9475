"""One COCO image -> one composited-foreground sample, a function of settings and record alone."""

import base64
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anyscene.data.sample import Element, Meta
from anyscene.errors import InputError
from data_prep.coco_annotations import TRUTH_NAME, ImageRecord
from data_prep.framing import Box, Framing, number_elements, soften
from data_prep.preparation import Outcome, Sample
from data_prep.selection import (
    Instance,
    choose_groups,
    contact_distance,
    decode_instances,
    touching_groups,
)

LOSSLESS_SIDE = 128  # pixels: up to this size a scene is stored as PNG
JPEG_FULL_COLOUR = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
TRUTH_IMAGES = ("shadow", "shadow_swapped")  # keys of truth.jsonl whose value is a PNG's path


@dataclass(frozen=True)
class Settings:
    """How images become samples; the units are those of `prepare_coco`."""

    images: Path
    truth: Path | None
    source: str
    seed: int
    size: int
    soften: float
    min_area_share: float
    max_area_share: float


class RejectedError(Exception):
    """An image gives no sample; the message is the reason."""


def make_sample(settings: Settings, record: ImageRecord) -> Outcome:
    """The image's sample, or the reason why there is none."""
    cv2.setNumThreads(1)
    rejected: Counter[str] = Counter()
    try:
        sample = _sample(settings, record, rejected)
    except RejectedError as error:
        rejected[f"image: {error}"] += 1
        sample = None
    return Outcome(sample, rejected)


def decode_image(path: Path) -> NDArray[np.uint8]:
    """An image in its stored orientation, u8 H W 3, blue first. Grey and CMYK become colour.

    Raises `RejectedError` for a file that cannot be decoded whole.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    except cv2.error:  # an empty file, or an absurd size
        image = None
    if image is None:
        raise RejectedError("unreadable file")
    return image.astype(np.uint8, copy=False)


def _sample(settings: Settings, record: ImageRecord, rejected: Counter[str]) -> Sample:
    path = settings.images / record.file_name
    if not path.is_file():
        raise RejectedError("missing file")
    if not record.annotations:
        raise RejectedError("no annotations")
    if record.captions is not None and not record.captions:
        raise RejectedError("no captions")
    framing = Framing(record.height, record.width, (settings.size, settings.size))
    instances, corner = _choose(settings, record, framing, rejected)
    scene = decode_image(path)
    if scene.shape[:2] != (record.height, record.width):
        raise RejectedError("size differs from the annotation's")
    masks = [instance.mask(record.height, record.width) for instance in instances]
    coverages = [framing.apply_mask(mask * 255, corner) for mask in masks]
    numbers, seen = number_elements(coverages)
    if not seen:
        raise RejectedError("no element that can be seen at this size")
    if hidden := len(instances) - len(seen):
        rejected["element: cannot be seen"] += hidden
    elements = [
        _describe(instances[index], numbers == number) for number, index in enumerate(seen, start=1)
    ]
    lossless = path.suffix.lower() == ".png" or settings.size <= LOSSLESS_SIDE
    meta = _meta(settings, record, framing, corner, elements)
    members = {
        "scene.png" if lossless else "scene.jpg": _encode(framing.apply(scene, corner), lossless),
        "mask.png": _encode(soften(np.maximum.reduce(coverages), settings.soften)),
        "elements.png": _encode(numbers),
        "meta.json": json.dumps(meta, sort_keys=True).encode(),
    }
    return Sample(meta["key"], meta["bucket"], members)


def _choose(
    settings: Settings, record: ImageRecord, framing: Framing, rejected: Counter[str]
) -> tuple[list[Instance], tuple[int, int]]:
    """The instances of the foreground and the crop's (top, left)."""
    try:
        instances = decode_instances(record.annotations, record.height, record.width)
    except ValueError:
        raise RejectedError("missing or damaged segmentation") from None
    random = np.random.default_rng([settings.seed, record.image_id])
    groups, window, reasons = choose_groups(
        touching_groups(instances, contact_distance(record.height, record.width)),
        [instance for instance in instances if instance.annotation.crowd],
        framing,
        min_area_share=settings.min_area_share,
        max_area_share=settings.max_area_share,
        random=random,
    )
    rejected.update(reasons)
    if not groups:
        raise RejectedError("no acceptable group")
    return [instance for group in groups for instance in group.instances], window.draw(random)


def _describe(instance: Instance, pixels: NDArray[np.bool_]) -> Element:
    box = Box.around(pixels.astype(np.uint8))
    return Element(
        annotation_id=instance.annotation.annotation_id,
        category=instance.annotation.category,
        box_xywh=[box.left, box.top, box.right - box.left, box.bottom - box.top],
        area_share=round(float(pixels.mean()), 6),
    )


def _meta(
    settings: Settings,
    record: ImageRecord,
    framing: Framing,
    corner: tuple[int, int],
    elements: list[Element],
) -> Meta:
    height, width = framing.bucket
    return Meta(
        key=f"{settings.source}-{record.image_id:012d}",
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
            data = _encode(framing.apply(image.astype(np.uint8, copy=False), corner))
        values[key] = base64.b64encode(data).decode()
    return values


def _encode(image: NDArray[np.uint8], lossless: bool = True) -> bytes:
    extension, parameters = (".png", ()) if lossless else (".jpg", JPEG_FULL_COLOUR)
    done, data = cv2.imencode(extension, image, parameters)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape}")
    return data.tobytes()
