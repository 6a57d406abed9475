"""The mask's score falls when the mask leaves the object's edge."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.boxes import Box
from data_prep.coco_annotations import read_records
from data_prep.demo_scenes import demo_scene
from data_prep.framing import Coverage, Framing
from data_prep.images import decode_image
from data_prep.instances import read_mask
from data_prep.mask_quality import mask_quality

COCO_MINI = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_mini"
DIRECTIONS = [(1, 0), (0, 1), (1, 1), (-1, 1)]  # of (y, x)


def shifted(coverage: Coverage, distance: int) -> list[Coverage]:
    """The same mask elsewhere, so many pixels away in each direction."""
    box = coverage.box
    found = []
    for direction in DIRECTIONS:
        y, x = np.rint(distance * np.array(direction) / np.hypot(*direction)).astype(int).tolist()
        moved = Box(box.top + y, box.left + x, box.bottom + y, box.right + x)
        found.append(Coverage(moved, coverage.values))
    return found


def disc(size: int = 96, radius: int = 24) -> tuple[np.ndarray, Coverage]:
    """A grey scene with a bright disc, and its mask."""
    mask = cv2.circle(np.zeros((size, size), np.uint8), (size // 2, size // 2), radius, 255, -1)
    scene = np.full((size, size, 3), 90, np.uint8)
    scene[mask > 0] = (60, 160, 200)
    box = Box.around(mask)
    return scene, Coverage(box, box.cut(mask))


def test_a_clear_object_scores_one_and_an_invisible_one_zero() -> None:
    scene, coverage = disc()
    assert mask_quality(scene, coverage) == 1
    assert mask_quality(np.full_like(scene, 90), coverage) == 0
    noise = np.random.default_rng(0).integers(0, 255, scene.shape, np.uint8)
    assert mask_quality(noise, coverage) < 0.3


@pytest.mark.parametrize("radius", [18, 20, 28, 30])
def test_a_mask_too_small_or_too_large_scores_low(radius: int) -> None:
    scene, _ = disc()
    assert mask_quality(scene, disc(radius=radius)[1]) < 0.1


def test_the_hole_of_a_ring_counts() -> None:
    scene, coverage = disc()
    with_hole = coverage.values.copy()
    with_hole[15:34, 15:34] = 0
    assert 0.5 < mask_quality(scene, Coverage(coverage.box, with_hole)) < 0.9


def test_an_outline_too_short_to_tell_is_not_held_against_a_mask() -> None:
    scene, _ = disc()
    assert mask_quality(scene, Coverage(Box(5, 5, 7, 7), np.full((2, 2), 255, np.uint8))) == 1


def test_true_masks_of_procedural_scenes_score_much_higher_than_shifted_ones() -> None:
    scores = []
    for index in range(40):
        scene = demo_scene("train", index, seed=0, size=64)
        for mask in scene.masks:
            box = Box.around(mask.astype(np.uint8))
            coverage = Coverage(box, box.cut(mask.astype(np.uint8)) * np.uint8(255))
            variants = [[coverage], shifted(coverage, 3), shifted(coverage, 6)]
            image = np.ascontiguousarray(scene.image[..., ::-1])
            scores.append([np.mean([mask_quality(image, v) for v in some]) for some in variants])
    true, three, six = np.array(scores).T
    assert true.mean() > 0.6
    assert max(three.mean(), six.mean()) < 0.15
    assert (true > np.maximum(three, six)).mean() > 0.9


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason=f"no real images: {COCO_MINI}")
def test_polygons_of_coco_rank_as_the_eye_ranks_them() -> None:
    exact = {(221708, "refrigerator"), (357888, "kite"), (346638, "bottle"), (22192, "handbag")}
    loose = {(25986, "bowl"), (56344, "tv"), (244592, "zebra"), (161846, "bowl"), (221708, "chair")}
    scores: dict[tuple[int, str], float] = {}
    ratios = []
    for record in read_records(COCO_MINI / "instances.json", None, None, None, Counter()):
        wanted = {name for number, name in exact | loose if number == record.image_id}
        for name in wanted:
            masks = [
                read_mask(annotation.segmentation, record.height, record.width)
                for annotation in record.annotations
                if annotation.category == name
            ]
            runs = max(masks, key=lambda runs: runs.area)
            scale = 512 / min(record.height, record.width)
            size = round(record.height * scale), round(record.width * scale)
            framing = Framing(record.height, record.width, size)
            scene = framing.apply(decode_image(COCO_MINI / "images" / record.file_name), (0, 0))
            coverage = framing.cover(runs.inside, runs.box, (0, 0))
            scores[record.image_id, name] = mask_quality(scene, coverage)
            if (record.image_id, name) in exact:
                moved = [mask_quality(scene, some) for some in shifted(coverage, 6)]
                ratios.append(np.mean(moved) / scores[record.image_id, name])
    assert min(scores[key] for key in exact) > 0.45
    assert max(scores[key] for key in loose) < 0.25
    assert max(ratios) < 0.3
