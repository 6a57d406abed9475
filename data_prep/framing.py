"""Resize, crop and soften: how an image and its masks come into a bucket, always together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

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

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
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


@dataclass(frozen=True)
class Framing:
    """An image of `height` x `width`, resized until it just covers a bucket, then cropped to it."""

    height: int
    width: int
    bucket: tuple[int, int]  # height, width of the crop

    @property
    def scale(self) -> float:
        """Pixels of the resized image for one of the original."""
        return max(self.bucket[0] / self.height, self.bucket[1] / self.width)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the resized image, before the crop."""
        return (
            max(self.bucket[0], round(self.height * self.scale)),
            max(self.bucket[1], round(self.width * self.scale)),
        )

    @property
    def crop_area(self) -> float:
        """The crop's area in pixels of the original image."""
        return self.bucket[0] * self.bucket[1] / self.scale**2

    def scaled(self, box: Box) -> tuple[float, float, float, float]:
        """A box of the original image in the resized one."""
        vertical, horizontal = self.resized[0] / self.height, self.resized[1] / self.width
        return (
            box.top * vertical,
            box.left * horizontal,
            box.bottom * vertical,
            box.right * horizontal,
        )

    def window(self) -> Window:
        """Every position of the crop."""
        spans = [
            Span(0, full - length, length, full)
            for full, length in zip(self.resized, self.bucket, strict=True)
        ]
        return Window(*spans)

    def keeps_pixels(self) -> bool:
        """Whether the bucket has the image's own size, so that nothing changes."""
        return (self.height, self.width) == self.bucket

    def apply(self, image: NDArray[np.uint8], top_left: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize H W or H W C and crop at (top, left): area filter down, cubic up."""
        return self._crop(image, top_left, cv2.INTER_CUBIC)

    def apply_mask(self, mask: NDArray[np.uint8], top_left: tuple[int, int]) -> NDArray[np.uint8]:
        """As `apply`, linear when enlarging: a mask must not ring. Range as the input's."""
        return self._crop(mask, top_left, cv2.INTER_LINEAR)

    def _crop(
        self, image: NDArray[np.uint8], top_left: tuple[int, int], enlarge: int
    ) -> NDArray[np.uint8]:
        if not self.keeps_pixels():
            height, width = self.resized
            how = cv2.INTER_AREA if self.scale < 1 else enlarge
            image = cv2.resize(image, (width, height), interpolation=how).astype(np.uint8)
        top, left = top_left
        box = Box(top, left, top + self.bucket[0], left + self.bucket[1])
        return np.ascontiguousarray(box.cut(image))


def soften(mask: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """A Gaussian of `sigma` pixels over a mask in [0, 255], at most `SOFT_REACH` pixels wide.

    Pixels farther than `SOFT_REACH` from the edge keep their value: the inside stays 255.
    """
    if sigma <= 0:
        return mask
    width = 2 * SOFT_REACH + 1
    blurred = cv2.GaussianBlur(
        mask.astype(np.float32), (width, width), sigma, borderType=cv2.BORDER_REPLICATE
    )
    return np.rint(blurred).clip(0, 255).astype(np.uint8)


def number_elements(coverages: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], list[int]]:
    """Which element each pixel belongs to, and which of the elements can be seen at all.

    `coverages` are masks in [0, 255]. The numbers, u8 H W, are 0 for none and 1..n for the elements
    in the returned list of positions in `coverages`. Where elements overlap, the smaller one is
    taken to lie on top: COCO does not say which does. Raises `ValueError` above 255 elements.
    """
    owner = np.zeros(coverages[0].shape, np.intp)
    for index in sorted(range(len(coverages)), key=lambda index: -int(coverages[index].sum())):
        owner[coverages[index] >= 128] = index + 1
    seen = np.flatnonzero(np.bincount(owner.ravel(), minlength=len(coverages) + 1)[1:])
    if len(seen) > 255:
        raise ValueError(f"{len(seen)} elements; at most 255 can be numbered")
    numbers = np.zeros(len(coverages) + 1, np.uint8)
    numbers[seen + 1] = np.arange(1, len(seen) + 1)
    return numbers[owner], seen.tolist()
