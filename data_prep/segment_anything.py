"""SA-1B's JSON files -> the outermost masks of good quality, without classes.

The form is that of Kirillov et al., "Segment Anything" (2023), section 5 and data card: a file an
image, with {image: {width, height}, annotations: [{id, segmentation, predicted_iou,
stability_score, ...}]}. Everything has a mask there: objects, their parts, and what is around them.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from data_prep.coco_annotations import Annotation
from data_prep.instances import read_mask
from data_prep.preparation import RejectedError
from data_prep.selection import border_distance

PART_SHARE = 0.9  # of a mask's area; so much of it inside a larger one makes it a part of that
SIDES_AROUND = 2  # of the image; a mask that reaches so many of them is around the objects


@dataclass(frozen=True)
class MaskScores:
    """The least scores of a mask, by default SAM's own; a mask that has none passes."""

    predicted_iou: float = 0.88
    stability_score: float = 0.95


def read_annotations(
    path: Path, least: MaskScores, category: str, rejected: Counter[str]
) -> tuple[int, int, tuple[Annotation, ...]]:
    """Height, width and the masks that can be elements; `rejected` counts the others.

    Raises `RejectedError` where the file has another form.
    """
    try:
        table = json.loads(path.read_bytes())
        height, width = int(table["image"]["height"]), int(table["image"]["width"])
        annotations = []
        for number, row in enumerate(table["annotations"], start=1):
            try:
                runs = _runs(row, height, width, least)
            except RejectedError as error:
                rejected[f"element: {error}"] += 1
            else:
                annotations.append(Annotation(row.get("id", number), category, runs, crowd=False))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RejectedError("its JSON is not in SA-1B's form") from None
    except FileNotFoundError:  # a link to nothing
        raise RejectedError("unreadable JSON") from None
    return height, width, tuple(_outermost(annotations, height, width, rejected))


def _runs(row: dict[str, Any], height: int, width: int, least: MaskScores) -> dict[str, Any]:
    """The mask of one row, compressed. Raises `RejectedError` where it cannot be used."""
    runs = row["segmentation"]
    if not isinstance(runs, dict):
        raise RejectedError("a mask that is not run-length encoded")
    if runs.get("size") != [height, width]:
        raise RejectedError("a mask of another size than the image")
    scores = ((row.get(name), score) for name, score in vars(least).items())
    if any(own is not None and not float(own) >= score for own, score in scores):
        raise RejectedError("a mask under the least score")
    try:
        area = read_mask(runs, height, width).area
    except ValueError:
        raise RejectedError("a damaged mask") from None
    if not area:
        raise RejectedError("an empty mask")
    if isinstance(runs["counts"], str):
        return runs
    return coco_mask.frPyObjects(row["segmentation"], height, width)


def _outermost(
    annotations: Sequence[Annotation], height: int, width: int, rejected: Counter[str]
) -> list[Annotation]:
    """The masks that are neither a part of another one nor around the objects.

    A part belongs to the larger mask, and is lost with it. Walls, floors and the sky touch nearly
    everything: as elements they would make one group of the whole image. They are told by reaching
    two sides of the image; what reaches one side only stays, and its group is found truncated. A
    mask that reaches all four sides has no parts.
    """
    if not annotations:
        return []
    runs: Any = [annotation.segmentation for annotation in annotations]
    areas = np.asarray(coco_mask.area(runs), float)
    left, top, wide, high = coco_mask.toBbox(runs).T
    border = border_distance(height, width)
    gaps = np.stack([left, top, width - left - wide, height - top - high])  # 4 n
    sides = (gaps < border).sum(0)
    inside = np.asarray(coco_mask.iou(runs, runs, [1] * len(runs)))  # n n: share of the row's mask
    rank = np.argsort(np.argsort(-areas, kind="stable"))
    parents = (rank[None] < rank[:, None]) & (sides < 4)[None]
    part = ((inside >= PART_SHARE) & parents).any(1)
    around = (sides >= SIDES_AROUND) & ~part
    for reason, left_out in (("a part of another", part), ("around the others", around)):
        if left_out.any():
            rejected[f"element: {reason}"] += int(left_out.sum())
    return [annotations[index] for index in np.flatnonzero(~part & ~around).tolist()]
