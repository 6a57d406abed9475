"""Which of the masks that SAM finds `prepare refine` takes, and what becomes of the sample."""

from collections import Counter

import cv2
import numpy as np
from shard_folders import SIZE, Members, drawn_sample, elements_of

from anyscene.data.stream import Slot
from anyscene.data.transforms import Sample, decode
from data_prep.refine_sample import annotated_masks, refined_members
from data_prep.verify_sample import check_sample


def stored(number: int) -> tuple[Sample, Members]:
    """A sample of two elements for an odd number, of one for an even one."""
    sample = drawn_sample(number).sample
    assert sample
    decoded = decode(Slot(0, 0, 0, 0), sample.key, sample.members, (SIZE, SIZE), None)
    return decoded, sample.members


def moved(mask: np.ndarray, rows: int, columns: int = 0) -> np.ndarray:
    return np.roll(mask, (rows, columns), axis=(0, 1))


def test_a_mask_that_agrees_is_taken_and_described_anew() -> None:
    """The tile of 20 rows from 10 on moves by one row: an IoU of 19/21. The dog's stays."""
    sample, members = stored(5)
    found = annotated_masks(sample)
    found[0] = moved(found[0], 1)
    found[1] = moved(found[1], 5)
    rejected: Counter[str] = Counter()
    refined = refined_members(sample, members, found, 0.9, 0.0, rejected)
    assert rejected == {"refinement: SAM's mask agrees too little": 1}
    assert check_sample(sample.key, refined, f"{SIZE}x{SIZE}", None) == ["tile", "dog"]
    numbers, (tile, dog) = elements_of(refined)
    assert np.array_equal(numbers == 1, found[0])
    assert np.array_equal(numbers == 2, sample.elements == 2)
    assert tile["box_xywh"] == [8, 11, 12, 20]
    assert tile["area_share"] == round(240 / SIZE**2, 6)
    assert dog == sample.meta["elements"][1]
    mask = cv2.imdecode(np.frombuffer(refined["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, np.where(numbers > 0, 255, 0))
    assert refined["scene.png"] == members["scene.png"]
    assert refined_members(sample, members, found, 0.91, 0.0, Counter()) is members


def test_the_edge_is_softened() -> None:
    sample, members = stored(2)
    refined = refined_members(sample, members, annotated_masks(sample), 1.0, 1.0, Counter())
    mask = cv2.imdecode(np.frombuffer(refined["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert 0 < mask[9, 10] < 128 <= mask[10, 10] < 255 == mask[13, 11]


def test_quality_is_that_of_the_new_mask() -> None:
    """A bright tile on black whose annotation is off by three rows and columns."""
    sample, members = stored(6)
    sample.image[:] = np.where(moved(sample.elements == 1, 3, 3)[..., None], 200, 0)
    quality = {}
    for name, distance in (("annotated", 0), ("true", 3)):
        found = moved(sample.elements == 1, distance, distance)[None]
        refined = refined_members(sample, members, found, 0.4, 0.0, Counter())
        quality[name] = elements_of(refined)[1][0]["mask_quality"]
    assert quality["true"] == 1
    assert quality["annotated"] < 0.5


def test_a_mask_takes_nothing_from_another_element() -> None:
    """That of the tile, 80 pixels, covers two rows of the dog, too: they stay the dog's."""
    sample, members = stored(1)
    found = annotated_masks(sample)
    found[0, 32:34] |= found[1, 32:34]
    refined = refined_members(sample, members, found, 0.5, 0.0, Counter())
    assert np.array_equal(elements_of(refined)[0], sample.elements)


def test_an_element_is_not_extended_to_the_border() -> None:
    sample, members = stored(6)
    found = annotated_masks(sample)
    found[0, :10, 10] = True
    rejected: Counter[str] = Counter()
    assert refined_members(sample, members, found, 0.9, 0.0, rejected) is members
    assert rejected == {"refinement: SAM's mask reaches the border": 1}
