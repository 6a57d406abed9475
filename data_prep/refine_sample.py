"""One sample and the masks that SAM found -> the same sample with those that are better."""

import json
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from anyscene.data.sample import Element
from anyscene.data.transforms import Sample
from data_prep.boxes import Box
from data_prep.framing import Coverage, number_elements, soften, union
from data_prep.images import encode_mask
from data_prep.mask_quality import mask_quality
from data_prep.rejected import KEPT

Members = dict[str, bytes]  # by suffix
Mask = NDArray[np.bool_]


def annotated_masks(sample: Sample) -> NDArray[np.bool_]:
    """Where each of a sample's n elements is, bool n H W."""
    numbers = np.arange(1, len(sample.meta["elements"]) + 1)
    return sample.elements == numbers[:, None, None]


def refined_members(
    sample: Sample,
    members: Members,
    found: NDArray[np.bool_],
    least_iou: float,
    sigma: float,
    rejected: Counter[str],
) -> Members:
    """The members of a sample with the masks, bool n H W, that were found for its n elements.

    An element's mask is taken where it agrees with the annotation by `least_iou`, without what is
    annotated as another element's. `rejected` counts those that are not taken. The new mask's edge
    is softened by `sigma`. Where none is taken, every byte stays.
    """
    own = annotated_masks(sample)
    taken: list[Mask | None] = []
    for annotated, mask in zip(own, found, strict=True):
        candidate = mask & (annotated | (sample.elements == 0))
        reason = _refused(candidate, annotated, least_iou)
        if reason:
            rejected[KEPT + reason] += 1
        taken.append(None if reason else candidate)
    if all(mask is None for mask in taken):
        return members
    coverages = [
        _coverage(annotated if mask is None else mask)
        for annotated, mask in zip(own, taken, strict=True)
    ]
    numbers, seen = number_elements(coverages, sample.elements.shape)
    assert len(seen) == len(own)  # each has pixels that no other may take
    scene = np.ascontiguousarray(sample.image[..., ::-1])
    elements = [
        element if taken[number - 1] is None else _described(element, numbers == number, scene)
        for number, element in enumerate(sample.meta["elements"], start=1)
    ]
    mask = soften(union(coverages, sample.elements.shape), sigma)
    return members | {
        "mask.png": encode_mask(mask),
        "elements.png": encode_mask(numbers),
        "meta.json": json.dumps(sample.meta | {"elements": elements}, sort_keys=True).encode(),
    }


def _refused(candidate: Mask, annotated: Mask, least_iou: float) -> str | None:
    """Why a mask is not taken."""
    common = np.count_nonzero(candidate & annotated)
    if common < least_iou * np.count_nonzero(candidate | annotated):
        return "SAM's mask agrees too little"
    if _at_border(candidate) and not _at_border(annotated):
        return "SAM's mask reaches the border"
    return None


def _at_border(mask: Mask) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _coverage(mask: Mask) -> Coverage:
    values = mask.astype(np.uint8) * np.uint8(255)
    box = Box.around(values)
    return Coverage(box, box.cut(values))


def _described(element: Element, pixels: Mask, scene: NDArray[np.uint8]) -> Element:
    """The element with the box, the share and the mask quality that it has now."""
    coverage = _coverage(pixels)
    box = coverage.box
    return Element(
        annotation_id=element["annotation_id"],
        category=element["category"],
        box_xywh=[box.left, box.top, box.right - box.left, box.bottom - box.top],
        area_share=round(np.count_nonzero(pixels) / pixels.size, 6),
        mask_quality=round(mask_quality(scene, coverage), 3),
    )
