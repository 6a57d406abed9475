"""Mask files and alpha channels -> labels: H W, 0 for no element, else the element's number."""

from enum import Enum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.preparation import RejectedError

Labels = NDArray[np.integer[Any]]
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # by Pillow

VOID = 255  # of an id mask: PASCAL VOC's border around objects
SOFT_PIXELS = 5  # a square of this side and of one value is wider than a soft edge
SPECK_SHARE = 1e-4  # of the image's area
MOST_ELEMENTS = 255  # that elements.png can number
SCENE_SIDE = 480  # pixels: a short side of twice this and more is reduced before it is judged
SCENE_STEP = 3  # levels of green
SCENE_SHARE = 0.06  # real photos have 0.07 to 0.8, smeared and flattened fillings up to 0.055


class MaskKind(Enum):
    """What the values of a mask file mean."""

    auto = "auto"
    """Binary or ids, by the values; a mask that can be read in both ways is rejected."""
    binary = "binary"
    """Foreground above half of the full range; each part that touches no other is an element."""
    ids = "ids"
    """Each value is an element, but for 0 and the void, 255."""


def read_labels(path: Path, kind: MaskKind) -> Labels:
    """The elements in a mask file. Raises `RejectedError` without any, or where it is no mask."""
    values, full = _read_values(path)
    if kind is MaskKind.auto:
        kind = _kind(values, full)
    if kind is MaskKind.binary:
        return parts(values > full // 2)
    return _checked(values if full > VOID else np.where(values == VOID, 0, values))


def parts(foreground: NDArray[np.bool_]) -> Labels:
    """A foreground's parts, those that touch at a corner as one, without specks.

    Raises `RejectedError` without any, or with more than can be numbered.
    """
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    numbers = np.arange(len(statistics), dtype=np.int32)
    numbers[statistics[:, cv2.CC_STAT_AREA] < SPECK_SHARE * foreground.size] = 0
    return _checked(numbers[np.asarray(labels, np.intp)])


def carries_scene(scene: NDArray[np.uint8], transparent: NDArray[np.bool_]) -> bool:
    """Whether there is a picture under the transparent pixels of an image, u8 H W 3.

    Cut-outs have one colour there, the edge's colours smeared outwards, or the flat runs that WebP
    leaves. None of them varies along both axes from pixel to pixel, as photos do.
    """
    factor = max(1, min(transparent.shape) // SCENE_SIDE)
    size = [side // factor for side in transparent.shape[::-1]]
    green = cv2.resize(scene[..., 1], size, interpolation=cv2.INTER_AREA).astype(np.int16)
    opaque = cv2.resize((~transparent).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    across = np.abs(np.diff(green, axis=1))[:-1] >= SCENE_STEP
    down = np.abs(np.diff(green, axis=0))[:, :-1] >= SCENE_STEP
    background = opaque[:-1, :-1] == 0
    return bool(background.any()) and float((across & down)[background].mean()) >= SCENE_SHARE


def _read_values(path: Path) -> tuple[Labels, int]:
    """The values of a mask file and the full range of its kind, which is 0 for a colour palette."""
    try:
        with Image.open(path) as file:
            values, palette, mode = np.asarray(file), file.getpalette(), file.mode
    except UNREADABLE:
        raise RejectedError("unreadable mask") from None
    if mode == "P":
        colours = np.zeros((256, 3), np.uint8)
        colours.flat[: len(palette or ())] = palette
        if np.ptp(colours[np.unique(values)], axis=1).any():
            return values, 0
        return colours[values, 0], 255
    if mode == "RGB" and not np.ptp(values, axis=2).any():
        return values[..., 0], 255
    if mode == "1":
        return values * np.uint8(255), 255
    if mode in ("L", "I", "I;16", "I;16B"):
        return values, 255 if mode == "L" else 65_535
    raise RejectedError(f"a mask that is {mode}, neither grey nor a palette")


def _kind(values: Labels, full: int) -> MaskKind:
    """What the values mean. Raises `RejectedError` where that is not clear."""
    if full == 0:
        return MaskKind.ids
    top = int(values.max())
    if top == 1 and cv2.connectedComponents(values.astype(np.uint8))[0] > 2:
        raise RejectedError("a mask of 0 and 1 in several parts: choose binary masks or ids")
    if top <= full // 4:
        return MaskKind.ids
    square = np.ones((SOFT_PIXELS, SOFT_PIXELS), np.uint8)
    grey = values.astype(np.float32)
    flat = cv2.erode(grey, square) == cv2.dilate(grey, square)
    if (flat & (values > 0) & (values < full * 7 // 8)).any():
        raise RejectedError("a mask with areas of grey: choose binary masks or ids")
    return MaskKind.binary


def _checked(labels: Labels) -> Labels:
    elements = np.count_nonzero(np.bincount(labels.ravel())[1:])
    if elements == 0:
        raise RejectedError("an empty mask")
    if elements > MOST_ELEMENTS:
        raise RejectedError(f"a mask of more than {MOST_ELEMENTS} elements")
    return labels
