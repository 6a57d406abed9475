"""COCO's run-length masks, decoded in their box only: an image has many masks, most of them small.

Pixels are counted down the columns, in turn outside and inside of the mask. The compressed text is
that of `rleToString` in pycocotools' maskApi.c: five bits a character, low ones first, and from the
fourth number on the difference to the number before the last.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.boxes import Box, as_uint8


@dataclass(frozen=True)
class Runs:
    """The runs of pixels inside a mask of `height` rows, counted down the columns."""

    height: int
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]  # the last pixel + 1

    @property
    def area(self) -> int:
        """Pixels inside the mask."""
        return int((self.ends - self.starts).sum())

    @cached_property
    def box(self) -> Box:
        """The smallest box around the mask, all zeros when it is empty."""
        if not len(self.starts):
            return Box(0, 0, 0, 0)
        first, top = np.divmod(self.starts, self.height)
        last, bottom = np.divmod(self.ends - 1, self.height)
        if (first != last).any():  # a run around a column's end has its last row and a first one
            return Box(0, int(first[0]), self.height, int(last[-1]) + 1)
        return Box(int(top.min()), int(first[0]), int(bottom.max()) + 1, int(last[-1]) + 1)

    @cached_property
    def inside(self) -> NDArray[np.uint8]:
        """The mask in its box, 0 or 1."""
        if not len(self.starts):
            return np.zeros((0, 0), np.uint8)
        box = self.box
        rows, columns = box.bottom - box.top, box.right - box.left
        edges = np.stack([self._in_box(self.starts), self._in_box(self.ends - 1) + 1], axis=1)
        lengths = _differences(np.concatenate([[0], edges.ravel(), [rows * columns]]))
        values = np.arange(len(lengths), dtype=np.uint8) & np.uint8(1)
        return as_uint8(cv2.transpose(np.repeat(values, lengths).reshape(columns, rows)))

    def part(self, box: Box) -> NDArray[np.uint8]:
        """The mask in any box, 0 or 1, with 0 beyond the image."""
        part = np.zeros((box.bottom - box.top, box.right - box.left), np.uint8)
        if common := self.box.intersection(box):
            common.within(box).cut(part)[:] = common.within(self.box).cut(self.inside)
        return part

    def _in_box(self, pixels: NDArray[np.int64]) -> NDArray[np.int64]:
        column, row = np.divmod(pixels, self.height)
        return (column - self.box.left) * (self.box.bottom - self.box.top) + row - self.box.top


def read_runs(lengths: Any, height: int, width: int) -> Runs:
    """The runs of a mask, given the lengths of all runs or their compressed text.

    Raises `ValueError` unless they cover the image.
    """
    if isinstance(lengths, str | bytes):
        lengths = _uncompressed(lengths)
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or lengths.dtype.kind != "i":
        raise ValueError("run lengths are neither a list of whole numbers nor a text")
    if lengths.min(initial=0) < 0 or lengths.sum() != height * width:
        raise ValueError("a damaged run-length encoding")
    ends = np.cumsum(lengths)
    starts, ends = ends[: len(ends) // 2 * 2].reshape(-1, 2).T
    filled = starts < ends
    return Runs(height, starts[filled], ends[filled])


def _uncompressed(text: str | bytes) -> NDArray[np.int64]:
    data = text.encode("ascii") if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(codes & 32 == 0)
    if not len(last) or last[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63:
        raise ValueError("a damaged run-length text")
    lengths = _differences(np.concatenate([[-1], last]))
    first = last + 1 - lengths
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, lengths))
    numbers = np.add.reduceat((codes & 31) << shifts, first)
    numbers -= (codes[last] >> 4 & 1) << 5 * lengths  # the sign
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _differences(values: NDArray[np.int64]) -> NDArray[np.int64]:
    return values[1:] - values[:-1]  # np.diff takes longer for so few
