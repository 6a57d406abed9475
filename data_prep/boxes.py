"""Boxes of pixels, and where a crop may lie that keeps some of them whole."""

import math
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)

SOFT_REACH = 2  # pixels: how far softening reaches into, and out of, a mask


@dataclass(frozen=True)
class Box:
    """Pixel rows `top` to `bottom` and columns `left` to `right`, the last ones outside."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def around(cls, mask: NDArray[np.uint8]) -> "Box":
        """The smallest box around the non-zero pixels of a mask, all zeros when there is none."""
        left, top, width, height = cv2.boundingRect(mask)
        return cls(top, left, top + height, left + width)

    def cut(self, image: NDArray[Number]) -> NDArray[Number]:
        """The part of an image inside the box, as a view."""
        return image[self.top : self.bottom, self.left : self.right]

    def within(self, outer: "Box") -> "Box":
        """The box in the coordinates of a box around it."""
        return Box(
            self.top - outer.top,
            self.left - outer.left,
            self.bottom - outer.top,
            self.right - outer.left,
        )

    def transposed(self) -> "Box":
        """The box in the image with rows and columns exchanged."""
        return Box(self.left, self.top, self.right, self.bottom)

    def grown(self, distance: int) -> "Box":
        """The box grown on every side, also beyond the image."""
        return Box(
            self.top - distance, self.left - distance, self.bottom + distance, self.right + distance
        )

    def intersection(self, other: "Box") -> "Box | None":
        """The common part, None when there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Box(top, left, bottom, right) if top < bottom and left < right else None

    def union(self, other: "Box") -> "Box":
        """The smallest box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def nearest_edge(self, height: int, width: int) -> int:
        """Pixels between the box and the nearest edge of the image."""
        return min(self.top, self.left, height - self.bottom, width - self.right)


@dataclass(frozen=True)
class Span:
    """Allowed positions `low..high` of a crop of `length` pixels along an axis of `full` pixels."""

    low: int
    high: int
    length: int
    full: int

    def keeping(self, start: float, end: float) -> "Span | None":
        """The positions that also keep `start..end` and its soft edge inside, None without any.

        At the image's own edge there is nothing to keep beyond it.
        """
        last = self.full - self.length
        low = max(self.low, min(last, math.ceil(end + SOFT_REACH) - self.length))
        high = min(self.high, max(0, math.floor(start - SOFT_REACH)))
        return Span(low, high, self.length, self.full) if low <= high else None


@dataclass(frozen=True)
class Window:
    """Allowed positions of the crop on both axes."""

    rows: Span
    columns: Span

    def keeping(self, box: tuple[float, float, float, float]) -> "Window | None":
        """The positions that also keep a box (top, left, bottom, right) whole, None if none do."""
        rows = self.rows.keeping(box[0], box[2])
        columns = self.columns.keeping(box[1], box[3])
        return Window(rows, columns) if rows and columns else None

    def draw(self, random: np.random.Generator) -> tuple[int, int]:
        """One allowed (top, left), uniformly."""
        return (
            int(random.integers(self.rows.low, self.rows.high, endpoint=True)),
            int(random.integers(self.columns.low, self.columns.high, endpoint=True)),
        )


def as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """What OpenCV made of a u8 image, whose type it does not tell."""
    return image.astype(np.uint8, copy=False)
