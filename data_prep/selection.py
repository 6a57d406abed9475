"""Which instances of an image become its composited foreground.

Instances that touch form a *group*; a group is taken whole or not at all, so that no selected
element is occluded by something that stays in the background. An instance below the minimum area
is a foreground only as part of a group that is not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.sparse.csgraph import connected_components

from data_prep.coco_annotations import Annotation
from data_prep.framing import Box, Framing, Window

Mask = NDArray[np.uint8]  # H W, 0 or 1, of the whole image unless said otherwise

TRUNCATED = "group: truncated at the image border"
TOUCHES_CROWD = "group: touches a crowd"
SAME_CROWD = "group: a crowd of the same category is in the image"
TOO_SMALL = "group: under the minimum area"
TOO_LARGE = "group: over the maximum area"
TOO_LARGE_TOGETHER = "group: over the maximum area together with others"
UNCROPPABLE = "group: does not fit into the crop"

CONTACT_SHARE = 0.004  # of the short side
BORDER_SHARE = 0.0175  # of the short side: annotators end a cut-off object short of the border


@dataclass(frozen=True)
class Instance:
    """One decoded instance or crowd region; only the part of the mask in its box is kept."""

    annotation: Annotation
    box: Box
    inside: Mask  # of the box's size

    def mask(self, height: int, width: int) -> Mask:
        """The mask of the whole image."""
        mask = np.zeros((height, width), np.uint8)
        self.box.cut(mask)[:] = self.inside
        return mask


@dataclass(frozen=True)
class Group:
    """Instances that touch one another, directly or through others."""

    instances: list[Instance]
    box: Box
    area: int  # pixels of the union


def decode_mask(segmentation: Any, height: int, width: int) -> Mask:
    """The mask as pycocotools decodes it. Raises `ValueError` where it is missing or damaged."""
    if isinstance(segmentation, list) and segmentation:
        return _decode_polygons(segmentation, height, width)
    if isinstance(segmentation, dict) and "counts" in segmentation:
        return _decode_runs(segmentation, height, width)
    raise ValueError("neither polygons nor a run-length encoding")


def _decode_polygons(polygons: list[Any], height: int, width: int) -> Mask:
    reach = 2 * (height + width)
    for polygon in polygons:
        if np.ndim(polygon) != 1 or len(polygon) % 2:
            raise ValueError("a polygon is not a list of x and y")
        if not np.all(np.abs(polygon) < reach):  # pycocotools dies on huge values
            raise ValueError("a polygon lies far outside the image")
    # fewer than three corners have no area, and pycocotools would take two for a box
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), np.uint8)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def _decode_runs(runs: Any, height: int, width: int) -> Mask:
    """As pycocotools, which leaves what too few runs do not cover uninitialised."""
    if runs.get("size") != [height, width]:
        raise ValueError("a run-length encoding of another size")
    if isinstance(runs["counts"], list):
        lengths = np.asarray(runs["counts"])
        if lengths.dtype.kind != "i" or lengths.min() < 0 or lengths.sum() != height * width:
            raise ValueError("a damaged run-length encoding")
        return coco_mask.decode(coco_mask.frPyObjects(runs, height, width))
    if not isinstance(runs["counts"], str):
        raise ValueError("a run-length encoding of an unknown kind")
    mask = coco_mask.decode(runs)
    if coco_mask.encode(mask)["counts"] != runs["counts"].encode():
        raise ValueError("a damaged run-length encoding")
    return mask


def decode_instances(annotations: Sequence[Annotation], height: int, width: int) -> list[Instance]:
    """The instances whose mask is not empty, in the given order. `ValueError` as `decode_mask`."""
    instances = []
    for annotation in annotations:
        mask = decode_mask(annotation.segmentation, height, width)
        box = Box.around(mask.T).transposed()  # pycocotools stores a mask column by column
        if box.bottom:
            instances.append(Instance(annotation, box, np.ascontiguousarray(box.cut(mask))))
    return instances


def contact_distance(height: int, width: int) -> int:
    """How near, in pixels, counts as touching: 1 in small images, 2 from a short side of 375."""
    return int(np.clip(round(min(height, width) * CONTACT_SHARE), 1, 2))


def border_distance(height: int, width: int) -> int:
    """How many pixels to the image's border count as truncated by it: 1 at 64, 8 at 480."""
    return max(1, round(min(height, width) * BORDER_SHARE))


def touching_groups(instances: Sequence[Instance], distance: int) -> list[Group]:
    """The instances without the crowds, in groups closed under touching within `distance`."""
    members = [instance for instance in instances if not instance.annotation.crowd]
    touching = np.zeros((len(members), len(members)), bool)
    for row, first in enumerate(members):
        grown, box = _grow(first, distance)
        for column in range(row + 1, len(members)):
            touching[row, column] = _overlap(grown, box, members[column])
    count, labels = connected_components(touching, directed=False)
    return [
        _as_group([members[index] for index in np.flatnonzero(labels == number)])
        for number in range(count)
    ]


def choose_groups(
    groups: Sequence[Group],
    crowds: Sequence[Instance],
    framing: Framing,
    *,
    min_area_share: float,
    max_area_share: float,
    random: np.random.Generator,
) -> tuple[list[Group], Window, Counter[str]]:
    """The groups to select, where the crop may lie, and how often a group was left out, by reason.

    Every group that passes the filters is taken, in random order, as long as the total area and the
    crop allow it. Area shares are of the crop's area. Anywhere in the window all are whole.
    """
    rejected: Counter[str] = Counter()
    chosen: list[Group] = []
    window = framing.window()
    total = 0.0
    for index in random.permutation(len(groups)):
        group = groups[index]
        share = group.area / framing.crop_area
        narrowed = window.keeping(framing.scaled(group.box))
        if reason := _incomplete(group, crowds, framing):
            rejected[reason] += 1
        elif share < min_area_share:
            rejected[TOO_SMALL] += 1
        elif share > max_area_share:
            rejected[TOO_LARGE] += 1
        elif total + share > max_area_share:
            rejected[TOO_LARGE_TOGETHER] += 1
        elif narrowed is None:
            rejected[UNCROPPABLE] += 1
        else:
            chosen.append(group)
            window = narrowed
            total += share
    return chosen, window, rejected


def _incomplete(group: Group, crowds: Sequence[Instance], framing: Framing) -> str | None:
    """Why the group is not the whole of what it shows, or None."""
    height, width = framing.height, framing.width
    if group.box.nearest_edge(height, width) < border_distance(height, width):
        return TRUNCATED
    distance = contact_distance(height, width)
    for instance in group.instances:
        grown, box = _grow(instance, distance)
        if any(_overlap(grown, box, crowd) for crowd in crowds):
            return TOUCHES_CROWD
    categories = {instance.annotation.category for instance in group.instances}
    return SAME_CROWD if any(crowd.annotation.category in categories for crowd in crowds) else None


def _grow(instance: Instance, distance: int) -> tuple[Mask, Box]:
    """The mask dilated by `distance`, cut to its box, and that box."""
    padded = np.pad(instance.inside, distance)
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return cv2.dilate(padded, kernel).astype(np.uint8, copy=False), instance.box.grown(distance)


def _overlap(grown: Mask, box: Box, other: Instance) -> bool:
    common = box.intersection(other.box)
    if common is None:
        return False
    return bool((common.within(box).cut(grown) & common.within(other.box).cut(other.inside)).any())


def _as_group(instances: list[Instance]) -> Group:
    box = instances[0].box
    for instance in instances:
        box = box.union(instance.box)
    union = np.zeros((box.bottom - box.top, box.right - box.left), np.uint8)
    for instance in instances:
        instance.box.within(box).cut(union)[:] |= instance.inside
    return Group(instances, box, int(union.sum()))
