"""The instances of an image, and which of them touch."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from data_prep.boxes import Box, as_uint8
from data_prep.coco_annotations import Annotation
from data_prep.run_length import Runs, read_runs

CONTACT_SHARE = 0.004  # of the short side


@dataclass(frozen=True)
class Instance:
    """One instance or crowd region whose mask is not empty."""

    annotation: Annotation
    runs: Runs

    @property
    def box(self) -> Box:
        """The smallest box around the mask."""
        return self.runs.box


@dataclass(frozen=True)
class Group:
    """Instances that touch one another, directly or through others."""

    instances: list[Instance]

    @cached_property
    def box(self) -> Box:
        """The smallest box around all of them."""
        return functools.reduce(Box.union, [instance.box for instance in self.instances])

    @cached_property
    def inside(self) -> NDArray[np.uint8]:
        """The union of their masks in the box around all, 0 or 1."""
        union = np.zeros((self.box.bottom - self.box.top, self.box.right - self.box.left), np.uint8)
        for instance in self.instances:
            instance.box.within(self.box).cut(union)[:] |= instance.runs.inside
        return union

    @cached_property
    def area(self) -> int:
        """Pixels in any of them."""
        return cv2.countNonZero(self.inside)


def decode_instances(annotations: Sequence[Annotation], height: int, width: int) -> list[Instance]:
    """The instances whose mask is not empty, in the given order. `ValueError` as `read_mask`."""
    instances = [
        Instance(annotation, read_mask(annotation.segmentation, height, width))
        for annotation in annotations
    ]
    return [instance for instance in instances if instance.runs.area]


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The mask of the whole image, 0 or 1. Raises `ValueError` as `read_mask`."""
    return read_mask(segmentation, height, width).part(Box(0, 0, height, width))


def read_mask(segmentation: Any, height: int, width: int) -> Runs:
    """The mask as pycocotools decodes it. Raises `ValueError` where it is missing or damaged."""
    if isinstance(segmentation, list) and segmentation:
        return _read_polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and "counts" in segmentation:
        if segmentation.get("size") != [height, width]:
            raise ValueError("a run-length encoding of another size")
        return read_runs(segmentation["counts"], height, width)
    raise ValueError("neither polygons nor a run-length encoding")


def _read_polygons(polygons: list[Any], height: int, width: int) -> Runs:
    reach = 2 * (height + width)
    for polygon in polygons:
        corners = np.asarray(polygon)
        if corners.ndim != 1 or len(corners) % 2 or corners.dtype.kind not in "if":
            raise ValueError("a polygon is not a list of x and y")
        if not np.all(np.abs(corners) < reach):  # pycocotools dies on huge values
            raise ValueError("a polygon lies far outside the image")
    # fewer than three corners have no area, and pycocotools would take two for a box
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        return read_runs([height * width], height, width)
    runs = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    return read_runs(runs["counts"], height, width)


def contact_distance(height: int, width: int) -> int:
    """How near, in pixels, counts as touching: 1 in small images, 2 from a short side of 375."""
    return int(np.clip(round(min(height, width) * CONTACT_SHARE), 1, 2))


def touching_groups(instances: Sequence[Instance], distance: int) -> list[Group]:
    """The instances without the crowds, in groups closed under touching within `distance`."""
    members = [instance for instance in instances if not instance.annotation.crowd]
    labels = list(range(len(members)))  # the first member of each one's group
    for first, second in _near_pairs(members, distance):
        if labels[first] != labels[second] and touch(members[first], members[second], distance):
            kept, merged = sorted((labels[first], labels[second]))
            labels = [kept if label == merged else label for label in labels]
    return [
        Group([member for member, label in zip(members, labels, strict=True) if label == number])
        for number in sorted(set(labels))
    ]


def touch(first: Instance, second: Instance, distance: int) -> bool:
    """Whether a pixel of one mask is within `distance` rows and columns of one of the other."""
    common = first.box.grown(distance).intersection(second.box)
    if common is None:
        return False
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    grown = as_uint8(cv2.dilate(first.runs.part(common.grown(distance)), kernel))
    return bool((grown[distance:-distance, distance:-distance] & second.runs.part(common)).any())


def _near_pairs(members: Sequence[Instance], distance: int) -> list[list[int]]:
    """The pairs of members whose boxes are within `distance`."""
    boxes = [member.box for member in members]
    starts = np.array([(box.top, box.left) for box in boxes]).reshape(-1, 2) - distance
    ends = np.array([(box.bottom, box.right) for box in boxes]).reshape(-1, 2)
    near = (starts[:, None] < ends[None]) & (starts[None] < ends[:, None])  # n n rows-and-columns
    return np.argwhere(np.triu(near.all(-1), 1)).tolist()
