"""One image of a folder -> one composited-foreground sample, made as COCO's are."""

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from data_prep.captions import read_lines
from data_prep.coco_annotations import Annotation, ImageRecord
from data_prep.coco_sample import Settings, make_sample
from data_prep.folder_listing import Entry
from data_prep.folder_masks import (
    UNREADABLE,
    Labels,
    MaskKind,
    carries_scene,
    parts,
    read_labels,
)
from data_prep.images import decode_image
from data_prep.preparation import Outcome, RejectedError
from data_prep.segment_anything import MaskScores, read_annotations

ORIENTATION_TAG = 0x0112  # EXIF
NO_FOREGROUND = "neither mask nor JSON nor transparent pixels"
CUT_OUT = "a cut-out without a scene under alpha 0: an element for generate and benchmark"


class Orientation(Enum):
    """Whether EXIF's orientation holds for an image whose mask is in another file."""

    by_size = "by-size"
    """Where only the turned image has the mask's size; an image that fits both ways is rejected."""
    upright = "upright"
    """Always: masks lie on the image as viewers show it."""
    stored = "stored"
    """Never: masks lie on the pixels as they are stored."""


@dataclass(frozen=True)
class Reading:
    """How the files of a folder are read."""

    source: Path
    masks: MaskKind
    orientation: Orientation
    scores: MaskScores
    category: str
    licence: str
    default_caption: str | None

    def filters(self) -> dict[str, Any]:
        """What of it decides the samples, as the manifest has it."""
        return {
            "masks": self.masks.value,
            "orientation": self.orientation.value,
            **{f"min_{name}": score for name, score in vars(self.scores).items()},
            "category": self.category,
            "licence": self.licence,
            "default_caption": self.default_caption,
        }


def make_folder_sample(settings: Settings, reading: Reading, entry: Entry) -> Outcome:
    """The image's sample, or the reason why there is none."""
    rejected: Counter[str] = Counter()
    try:
        record, orientation = describe(reading, entry, rejected)
    except RejectedError as error:
        rejected[f"image: {error}"] += 1
        return Outcome(None, rejected)
    path = reading.source / entry.image
    outcome = make_sample(
        settings, record, lambda reduction: turned(decode_image(path, reduction), orientation)
    )
    return Outcome(outcome.sample, outcome.rejected + rejected)


def describe(reading: Reading, entry: Entry, rejected: Counter[str]) -> tuple[ImageRecord, int]:
    """What the files say of an image, and EXIF's number of the turn that its masks ask for.

    `rejected` counts masks that cannot be elements. Raises `RejectedError` without any.
    """
    captions = _captions(reading, entry)
    stored, exif, transparent = _read_header(reading.source / entry.image)
    if entry.mask:
        labels = read_labels(reading.source / entry.mask, reading.masks)
        (height, width), annotations = labels.shape, _annotations(labels, reading.category)
        orientation = _turn(reading.orientation, exif, stored, (height, width))
    elif entry.annotations:
        height, width, annotations = read_annotations(
            reading.source / entry.annotations, reading.scores, reading.category, rejected
        )
        orientation = _turn(reading.orientation, exif, stored, (height, width))
    elif transparent:
        labels = turned(_transparency(reading.source / entry.image), exif)
        (height, width), annotations = labels.shape, _annotations(labels, reading.category)
        orientation = exif
    else:
        raise RejectedError(NO_FOREGROUND)
    record = ImageRecord(
        image_id=entry.image_id,
        name=entry.key,
        file_name=entry.image,
        height=height,
        width=width,
        licence=reading.licence,
        annotations=annotations,
        captions=captions,
        truth=None,
    )
    return record, orientation


def turned(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels, H W or H W C, as viewers show them: EXIF 3.0, Orientation, 1 to 8."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _captions(reading: Reading, entry: Entry) -> tuple[str, ...]:
    captions = entry.captions
    if captions is None and entry.text:
        try:
            captions = read_lines(reading.source / entry.text)
        except ValueError:
            raise RejectedError("captions that are not UTF-8") from None
    if not captions and reading.default_caption is not None:
        return (reading.default_caption,)
    if not captions:
        raise RejectedError("no captions")
    return captions


def _read_header(path: Path) -> tuple[tuple[int, int], int, bool]:
    """Stored height and width, EXIF's orientation, and whether pixels may be transparent."""
    try:
        with Image.open(path) as image:
            orientation: Any = image.getexif().get(ORIENTATION_TAG)
            exif = orientation if orientation in range(1, 9) else 1
            return (image.height, image.width), exif, image.has_transparency_data
    except UNREADABLE:
        raise RejectedError("unreadable file") from None


def _turn(choice: Orientation, exif: int, stored: tuple[int, int], masked: tuple[int, int]) -> int:
    """The orientation in which an image of `stored` size lies under masks of another file."""
    if exif == 1 or choice is Orientation.stored:
        return 1
    if choice is Orientation.upright:
        return exif
    if exif <= 4 or stored[0] == stored[1]:
        raise RejectedError("an EXIF orientation that its mask's size cannot tell: choose one")
    return 1 if masked == stored else exif


def _transparency(path: Path) -> Labels:
    """The parts of an image's foreground by its own alpha, as stored.

    Raises `RejectedError` where nothing, or no scene, lies under its transparent pixels.
    """
    try:
        with Image.open(path) as image:
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
    except UNREADABLE:
        raise RejectedError("unreadable file") from None
    if alpha.min() > 0:
        raise RejectedError(NO_FOREGROUND)
    if not carries_scene(decode_image(path), alpha == 0):
        raise RejectedError(CUT_OUT)
    return parts(alpha >= 128)


def _annotations(labels: Labels, category: str) -> tuple[Annotation, ...]:
    numbers = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    return tuple(
        Annotation(number, category, _run_lengths(labels == number), crowd=False)
        for number in numbers
        if number
    )


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask in COCO's compressed run-length encoding."""
    runs: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode()}
