"""Run-length masks against pycocotools."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from data_prep.boxes import Box
from data_prep.instances import decode_mask
from data_prep.run_length import read_runs

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
)


def encoded(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


@given(mask=MASKS)
def test_a_compressed_text_gives_the_mask_that_pycocotools_packed(mask: np.ndarray) -> None:
    height, width = mask.shape
    runs = read_runs(encoded(mask), height, width)
    assert runs.area == mask.sum()
    left, top, across, down = coco_mask.toBbox({"size": [height, width], "counts": encoded(mask)})
    assert runs.box == Box(top, left, top + down, left + across)
    assert np.array_equal(runs.inside, runs.box.cut(mask))
    assert np.array_equal(runs.part(Box(0, 0, height, width)), mask)


@given(mask=MASKS, corner=st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
def test_any_part_of_a_mask_is_the_cut_of_the_whole(
    mask: np.ndarray, corner: tuple[int, int]
) -> None:
    box = Box(corner[0], corner[1], corner[0] + 15, corner[1] + 15)
    around = np.pad(mask, 60)
    expected = around[box.top + 60 : box.bottom + 60, box.left + 60 : box.right + 60]
    assert np.array_equal(read_runs(encoded(mask), *mask.shape).part(box), expected)


def test_long_runs_and_large_images_keep_their_numbers() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[100:2900, 700:3600] = 1
    mask[:, 3000] = 1  # a run around a column's end
    mask[1500, 1500] = 0
    assert np.array_equal(
        decode_mask({"size": [3000, 4000], "counts": encoded(mask)}, 3000, 4000), mask
    )


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "0",
        "é",
        "\x10",
        encoded(np.eye(9, dtype=np.uint8))[:-1],
        encoded(np.eye(9, dtype=np.uint8)) + "1",
        "o" * 12 + "0",
        "T1T1",
        [5, 3],
        [90, -9],
        [81.0],
        [[81]],
        [],
        None,
        81,
    ],
)
def test_damaged_runs_are_refused(counts: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_mask({"size": [9, 9], "counts": counts}, 9, 9)
