"""SA-1B's masks: which of them can be elements."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from small_coco import runs

from data_prep.preparation import RejectedError
from data_prep.segment_anything import MaskScores, read_annotations

SIZE = (80, 100)
LEAST = MaskScores()
PART = "element: a part of another"
AROUND = "element: around the others"


def block(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def row(mask: np.ndarray, number: int = 1, **values: Any) -> dict[str, Any]:
    scores = {"predicted_iou": 0.95, "stability_score": 0.97}
    return {"id": number, "segmentation": runs(mask, compressed=True), **scores, **values}


def read(
    folder: Path, *rows: dict[str, Any], least: MaskScores = LEAST
) -> tuple[list[int], Counter[str]]:
    """Ids of the masks that are left, and what was left out."""
    table = {"image": {"height": SIZE[0], "width": SIZE[1]}, "annotations": rows}
    (folder / "a.json").write_text(json.dumps(table))
    rejected: Counter[str] = Counter()
    height, width, annotations = read_annotations(folder / "a.json", least, "thing", rejected)
    assert (height, width) == SIZE
    assert all(found.category == "thing" and not found.crowd for found in annotations)
    return [found.annotation_id for found in annotations], rejected


def test_a_mask_stays_as_it_is(tmp_path: Path) -> None:
    masks = [block(20, 20, 40, 50), block(50, 60, 60, 90)]
    rows = [row(mask, number) for number, mask in enumerate(masks, start=7)]
    rows[1]["segmentation"] = runs(masks[1], compressed=False)
    table = {"image": {"height": SIZE[0], "width": SIZE[1]}, "annotations": rows}
    (tmp_path / "a.json").write_text(json.dumps(table))
    rejected: Counter[str] = Counter()
    *_, found = read_annotations(tmp_path / "a.json", LEAST, "object", rejected)
    assert [annotation.annotation_id for annotation in found] == [7, 8]
    for annotation, mask in zip(found, masks, strict=True):
        assert np.array_equal(coco_mask.decode(annotation.segmentation), mask)
    assert not rejected


def test_parts_belong_to_the_mask_around_them(tmp_path: Path) -> None:
    whole, part = block(20, 20, 60, 60), block(30, 30, 50, 40)
    part_of_part, mostly = block(35, 32, 40, 36), block(50, 42, 61, 52)  # 10 of 11 rows inside
    beside, less = block(20, 62, 40, 80), block(50, 54, 62, 59)  # 10 of 12 rows inside
    masks = [part, whole, part_of_part, mostly, beside, less]
    kept, rejected = read(tmp_path, *(row(mask, n) for n, mask in enumerate(masks)))
    assert kept == [1, 4, 5]
    assert rejected == {PART: 3}


def test_of_equal_masks_one_stays(tmp_path: Path) -> None:
    mask = block(20, 20, 60, 60)
    assert read(tmp_path, row(mask, 1), row(mask, 2), row(mask, 3)) == ([1], Counter({PART: 2}))


def test_what_reaches_two_sides_is_around_the_objects(tmp_path: Path) -> None:
    masks = {
        1: block(50, 0, 80, 100),  # floor: three sides
        2: block(0, 0, 30, 20),  # a corner: two
        3: block(30, 80, 50, 100),  # cut by one: a truncated object
        4: block(55, 40, 65, 50),  # lies on the floor, inside its mask
        5: block(30, 40, 45, 50),
        6: block(70, 0, 80, 30),  # a part of the floor, at two sides itself
    }
    kept, rejected = read(tmp_path, *(row(mask, number) for number, mask in masks.items()))
    assert kept == [3, 5]
    assert rejected == {AROUND: 2, PART: 2}


def test_a_mask_of_all_the_image_has_no_parts(tmp_path: Path) -> None:
    kept, rejected = read(tmp_path, row(block(0, 0, 80, 100), 1), row(block(20, 20, 40, 40), 2))
    assert kept == [2]
    assert rejected == {AROUND: 1}


def test_masks_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    good = block(20, 20, 40, 50)
    other = np.zeros((SIZE[0], SIZE[1] - 1), np.uint8)
    damaged = runs(good, compressed=True) | {"counts": runs(good, compressed=True)["counts"][:-3]}
    rows = [
        row(good, 1),
        row(good, 2, predicted_iou=0.87),
        row(good, 3, stability_score=float("nan")),
        row(other, 4),
        row(good, 5, segmentation=damaged),
        row(good, 6, segmentation=None),
        row(np.zeros(SIZE, np.uint8), 7),
    ]
    beside = row(block(20, 62, 40, 80), 8, predicted_iou=None)  # passes, as without a score
    kept, rejected = read(tmp_path, *rows, beside)
    assert kept == [1, 8]
    assert rejected == {
        "element: a mask under the least score": 2,
        "element: a mask of another size than the image": 1,
        "element: a damaged mask": 1,
        "element: a mask that is not run-length encoded": 1,
        "element: an empty mask": 1,
    }
    kept, _ = read(tmp_path, *rows[:3], least=MaskScores(0.5, 0.95))
    assert kept == [1]  # mask 2 passes now, and is the same as 1
    unscored = {"id": 8, "segmentation": runs(block(50, 60, 60, 90), compressed=True)}
    assert read(tmp_path, rows[0], unscored)[0] == [1, 8]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"caption": "a dog"}',  # as other programs write beside images
        '{"image": {"height": 4}, "annotations": []}',
        '{"image": {"height": 4, "width": 4}, "annotations": [{"id": 1}]}',
        '{"image": {"height": 4, "width": 4}, "annotations": [3]}',
    ],
)
def test_another_form_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RejectedError, match="its JSON is not in SA-1B's form"):
        read_annotations(tmp_path / "a.json", LEAST, "object", Counter())
