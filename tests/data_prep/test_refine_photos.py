"""Masks of another segmenter on real photos: what becomes of COCO's polygons."""

from collections import Counter
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from shard_folders import elements_of
from small_coco import prepare_files

from anyscene.data.reader import ShardReader
from anyscene.data.stream import Slot
from anyscene.data.transforms import Sample
from data_prep.refine_sample import annotated_masks, refined_members
from data_prep.verify_sample import check_sample

COCO = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_mini"
IMAGES = 20
REACH = np.ones((9, 9), np.uint8)  # 4 pixels to both sides of the polygon

# pycocotools 2.0.11 on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def grab_cut(sample: Sample) -> np.ndarray:
    """The elements' masks by GrabCut (Rother et al., 2004), which moves edges by colour alone."""
    found = []
    for mask in annotated_masks(sample).astype(np.uint8):
        labels = np.full(mask.shape, cv2.GC_BGD, np.uint8)
        labels[cv2.dilate(mask, REACH) > 0] = cv2.GC_PR_BGD
        labels[mask > 0] = cv2.GC_PR_FGD
        labels[cv2.erode(mask, REACH) > 0] = cv2.GC_FGD
        cv2.setRNGSeed(0)
        colours = np.zeros((1, 65)), np.zeros((1, 65))
        bgr = np.ascontiguousarray(sample.image[..., ::-1])
        cv2.grabCut(bgr, labels, None, *colours, 2, cv2.GC_INIT_WITH_MASK)
        found.append((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD))
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.skipif(not COCO.is_dir(), reason="needs ../shared/data")
def test_masks_that_follow_the_photo_better_are_taken_and_score_higher(tmp_path: Path) -> None:
    manifest = prepare_files(
        images=COCO / "images",
        instances=COCO / "instances.json",
        captions=COCO / "captions.json",
        out=tmp_path,
        limit=IMAGES,
        workers=1,
    )
    rejected: Counter[str] = Counter()
    before, after = [], []
    with closing(ShardReader(manifest)) as reader:
        for number in range(manifest.samples):
            sample, members = reader.read(Slot(0, 0, 0, number))
            refined = refined_members(sample, members, grab_cut(sample), 0.8, 1.0, rejected)
            check_sample(sample.key, refined, "512x512", None)
            before += [element["mask_quality"] for element in sample.meta["elements"]]
            after += [element["mask_quality"] for element in elements_of(refined)[1]]
    print(f"{len(before)} elements: {np.mean(before):.3f} to {np.mean(after):.3f}, {rejected}")
    assert rejected.total() < len(before) / 2
    assert np.mean(after) > np.mean(before) + 0.2
