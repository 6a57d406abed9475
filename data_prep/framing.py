"""Resize, crop and soften: how an image and its masks come into a bucket, always together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.boxes import SOFT_REACH, Box, Span, Window, as_uint8

LEAST_CUBIC = 2 / 3  # scale, after the reduction


@dataclass(frozen=True)
class Coverage:
    """How much of each of the crop's pixels a mask covers, within a box."""

    box: Box
    values: NDArray[np.uint8]  # of the box's size, 255 = all of the pixel


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

    @property
    def reduction(self) -> int:
        """By which power of two an image is reduced before the rest of its resize."""
        return 1 << max(0, math.floor(-math.log2(self.scale)))

    def keeps_pixels(self) -> bool:
        """Whether the bucket has the image's own size, so that nothing changes."""
        return (self.height, self.width) == self.bucket

    def apply(
        self, image: NDArray[np.uint8], top_left: tuple[int, int], reduced_by: int = 1
    ) -> NDArray[np.uint8]:
        """Resize H W or H W C, which may have been reduced already, and crop at (top, left).

        The image is reduced by `reduction` first. The rest, by more than a half, is cubic, or
        linear where that would alias.
        """
        if not self.keeps_pixels():
            image = reduced(image, self.reduction // reduced_by)
            down, across = (
                self.resized[axis] / length * self.reduction
                for axis, length in enumerate((self.height, self.width))
            )
            how = cv2.INTER_CUBIC if min(down, across) >= LEAST_CUBIC else cv2.INTER_LINEAR
            image = as_uint8(cv2.resize(image, None, fx=across, fy=down, interpolation=how))
        top, left = top_left
        box = Box(top, left, top + self.bucket[0], left + self.bucket[1])
        return np.ascontiguousarray(box.cut(image))

    def cover(self, inside: NDArray[np.uint8], box: Box, top_left: tuple[int, int]) -> Coverage:
        """What a mask, 0 or 1 in a box of the image, covers of the crop at (top, left).

        It is resized as the image is, but linear throughout: a mask must not ring.
        """
        values = inside * np.uint8(255)
        if self.keeps_pixels():
            return Coverage(box, values)
        values, box = _aligned(values, box, self.reduction)
        values = reduced(values, self.reduction)
        rows = self._axis(0, (box.top, box.bottom), top_left[0])
        columns = self._axis(1, (box.left, box.right), top_left[1])
        place = Box(rows.start, columns.start, rows.end, columns.end)
        matrix = np.array([[columns.step, 0, columns.origin], [0, rows.step, rows.origin]])
        values = cv2.warpAffine(
            values,
            matrix,
            (place.right - place.left, place.bottom - place.top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        return Coverage(place, as_uint8(values))

    def _axis(self, axis: int, span: tuple[int, int], crop: int) -> "_Axis":
        """Where `span` of the image's pixels, once reduced, lies in the crop from `crop` on."""
        scale = self.resized[axis] / (self.height, self.width)[axis]
        step = 1 / (scale * self.reduction)
        start = max(0, math.floor(span[0] * scale - crop - 1 / step))
        end = min(self.bucket[axis], math.ceil(span[1] * scale - crop + 1 / step))
        origin = (crop + start + 0.5) * step - span[0] / self.reduction - 0.5
        return _Axis(start, end, step, origin)


@dataclass(frozen=True)
class _Axis:
    """Pixel `start + n` of the crop, `start <= start + n < end`, is at `origin + step n`."""

    start: int
    end: int
    step: float
    origin: float


def reduced_size(size: Sequence[int], factor: int) -> tuple[int, int]:
    """Height and width divided and rounded up, as JPEG decoders do."""
    return -(-size[0] // factor), -(-size[1] // factor)


def reduced(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """The means of squares of `factor` pixels; the last ones are continued beyond the image."""
    if factor == 1:
        return image
    height, width = image.shape[:2]
    image = as_uint8(
        cv2.copyMakeBorder(image, 0, -height % factor, 0, -width % factor, cv2.BORDER_REPLICATE)
    )
    size = reduced_size(image.shape, factor)
    return as_uint8(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))


def _aligned(mask: NDArray[np.uint8], box: Box, step: int) -> tuple[NDArray[np.uint8], Box]:
    """A mask and its box with zeros around it up to multiples of `step`."""
    top, left = box.top % step, box.left % step
    bottom, right = -box.bottom % step, -box.right % step
    outer = Box(box.top - top, box.left - left, box.bottom + bottom, box.right + right)
    return as_uint8(
        cv2.copyMakeBorder(mask, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    ), outer


def soften(mask: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """A Gaussian of `sigma` pixels over a mask in [0, 255], at most `SOFT_REACH` pixels wide.

    Pixels farther than `SOFT_REACH` from the edge keep their value: the inside stays 255.
    """
    box = Box.around(mask).grown(2 * SOFT_REACH).intersection(Box(0, 0, *mask.shape))
    if sigma <= 0 or box is None:
        return mask
    width = 2 * SOFT_REACH + 1
    blurred = cv2.GaussianBlur(
        box.cut(mask).astype(np.float32), (width, width), sigma, borderType=cv2.BORDER_REPLICATE
    )
    softened = mask.copy()
    box.cut(softened)[:] = cv2.convertScaleAbs(blurred)
    return softened


def union(coverages: Sequence[Coverage], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The largest coverage of each pixel of a crop, u8 H W."""
    mask = np.zeros(size, np.uint8)
    for coverage in coverages:
        part = coverage.box.cut(mask)
        np.maximum(part, coverage.values, out=part)
    return mask


def number_elements(
    coverages: Sequence[Coverage], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], list[int]]:
    """Which element each pixel belongs to, and which of the elements can be seen at all.

    The numbers, u8 H W, are 0 for none and 1..n for the elements in the returned list of positions
    in `coverages`, at most 255. Where elements overlap, the smaller one is taken to lie on top:
    COCO does not say which does.
    """
    owner = np.zeros(size, np.uint8)
    areas = [int(coverage.values.sum()) for coverage in coverages]
    for index in sorted(range(len(coverages)), key=lambda index: -areas[index]):
        coverage = coverages[index]
        coverage.box.cut(owner)[coverage.values >= 128] = index + 1
    seen = [
        index
        for index, coverage in enumerate(coverages)
        if (coverage.box.cut(owner) == index + 1).any()
    ]
    numbers = np.zeros(256, np.uint8)
    for number, index in enumerate(seen, start=1):
        numbers[index + 1] = number
    return as_uint8(cv2.LUT(owner, numbers)), seen
