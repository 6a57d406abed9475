"""What becomes of an image: one small drawn COCO for each filter."""

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from small_coco import SIZE, SmallCoco, box, runs

from data_prep.coco_annotations import Annotation
from data_prep.instances import decode_instances, decode_mask, touching_groups

# pycocotools 2.0.11 on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def coco(tmp_path: Path) -> SmallCoco:
    return SmallCoco(tmp_path / "coco")


def test_every_complete_group_is_chosen(coco: SmallCoco) -> None:
    coco.add(box(5, 5, 20, 20), box(30, 30, 50, 50), box(50, 40, 58, 45))
    manifest, samples = coco.prepare()
    elements = samples[1]["meta"]["elements"]
    assert {element["category"] for element in elements} == {"apple", "boat", "car"}
    assert manifest.rejected == {}
    by_category = {element["category"]: element for element in elements}
    assert by_category["apple"]["box_xywh"] == [5, 5, 15, 15]
    assert by_category["apple"]["area_share"] == pytest.approx(225 / 4096, abs=1e-5)
    assert by_category["car"]["area_share"] < 0.02  # as a part of a larger group it is fine


@pytest.mark.parametrize(
    ("instances", "crowd", "reason"),
    [
        ([box(0, 5, 30, 30)], None, "truncated at the image border"),
        ([box(5, 5, 30, 30), box(30, 30, 64, 60)], None, "truncated at the image border"),
        ([box(5, 5, 30, 30)], box(30, 5, 40, 30), "touches a crowd"),
        ([box(5, 5, 30, 30)], box(20, 29, 60, 60), "touches a crowd"),
        ([box(30, 30, 35, 35)], None, "under the minimum area"),
        ([box(1, 1, 63, 63)], None, "over the maximum area"),
    ],
)
def test_an_incomplete_group_is_left_out(
    coco: SmallCoco, instances: list[Any], crowd: Any, reason: str
) -> None:
    coco.add(box(10, 10, 40, 40))
    coco.add(*instances, crowd=crowd)
    manifest, samples = coco.prepare()
    assert set(samples) == {1}
    assert manifest.rejected == {f"group: {reason}": 1, "image: no acceptable group": 1}


@pytest.mark.parametrize(("gap", "groups"), [(0, 1), (1, 1), (2, 2)])
def test_touching_is_nearness_within_the_distance(gap: int, groups: int) -> None:
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[0, 5:20, 5:20] = 1
    masks[1, 20 + gap : 30, 20 + gap : 30] = 1  # at the corner
    annotations = [Annotation(n, "x", runs(mask, True), False) for n, mask in enumerate(masks)]
    instances = decode_instances(annotations, 40, 40)
    assert len(touching_groups(instances, 2)) == groups


def test_a_groups_area_counts_shared_pixels_once() -> None:
    masks = np.zeros((2, 40, 40), np.uint8)
    masks[0, 5:20, 5:20] = 1
    masks[1, 10:30, 18:30] = 1
    masks[1, 10:20, 18:25] = 0  # a corner of its box that only the first one has
    annotations = [Annotation(n, "x", runs(mask, True), False) for n, mask in enumerate(masks)]
    (group,) = touching_groups(decode_instances(annotations, 40, 40), 2)
    assert group.area == (masks[0] | masks[1]).sum()


def test_a_crowd_of_the_same_category_is_what_a_model_would_learn_to_add(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 40, 40), crowd=box(50, 50, 60, 60))
    coco.add(*[box(1, 1, 2, 2)] * 8, box(10, 10, 40, 40), crowd=box(50, 50, 60, 60))
    manifest, samples = coco.prepare()
    assert set(samples) == {1}
    assert manifest.rejected["group: a crowd of the same category is in the image"] == 1


def test_groups_are_taken_up_to_the_maximum_area(coco: SmallCoco) -> None:
    coco.add(box(2, 2, 30, 62), box(34, 2, 62, 62))
    manifest, samples = coco.prepare()
    assert len(samples[1]["meta"]["elements"]) == 1
    assert manifest.rejected == {"group: over the maximum area together with others": 1}


def test_the_crop_keeps_elements_whole_or_leaves_them_out(coco: SmallCoco) -> None:
    for _ in range(6):  # 128 wide: two far apart do not fit into one square
        coco.add(box(10, 10, 40, 40), box(90, 10, 120, 40), size=(64, 128))
    coco.add(box(10, 10, 110, 40), size=(64, 128))
    coco.add(box(60, 10, 100, 40), size=(64, 128))
    manifest, samples = coco.prepare(soften=0.0)
    assert manifest.rejected["group: does not fit into the crop"] == 7
    assert set(samples) == {1, 2, 3, 4, 5, 6, 8}
    chosen = Counter(
        sample["meta"]["elements"][0]["category"]
        for number, sample in samples.items()
        if number < 7
    )
    assert set(chosen) == {"apple", "boat"}  # by chance, not always the first
    left = samples[8]["meta"]["crop_top_left"][1]
    assert 100 - 64 + 2 <= left <= 60 - 2
    for number, sample in samples.items():
        assert (sample["mask"] > 127).sum() == (1200 if number == 8 else 900)


def test_every_kind_of_segmentation_gives_its_pixels(coco: SmallCoco) -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:30, 12:40] = True
    mask[15:20, 15:20] = False
    for segmentation in (box(12, 10, 40, 30), runs(mask, True), runs(mask, False)):
        coco.add(segmentation)
    _, samples = coco.prepare(soften=0.0)
    for number in (2, 3):
        assert np.array_equal(samples[number]["mask"], mask * 255)
        assert np.array_equal(samples[number]["elements"], mask)
    assert (samples[1]["mask"] == 255).sum() == 20 * 28


def test_polygons_need_three_corners() -> None:
    triangle, line = np.array([5.0, 5, 25, 5, 5, 25]), np.array([5.0, 5, 25, 25])
    assert decode_mask([triangle], SIZE, SIZE).sum() > 150
    assert np.array_equal(
        decode_mask([line, triangle], SIZE, SIZE), decode_mask([triangle], SIZE, SIZE)
    )
    assert decode_mask([line], SIZE, SIZE).sum() == 0


def test_what_vanishes_at_the_size_of_the_scene_is_no_foreground(coco: SmallCoco) -> None:
    coco.add(box(40, 40, 120, 120), box(140, 140, 142, 142), size=(640, 640))
    coco.add(box(140, 140, 142, 142), size=(640, 640))
    coco.add(box(40, 40, 120, 120), box(60, 60, 62, 62), size=(640, 640))
    manifest, samples = coco.prepare(min_area_share=0.0)
    assert [len(sample["meta"]["elements"]) for sample in samples.values()] == [1, 1]
    assert manifest.rejected == {
        "element: cannot be seen": 2,
        "image: no element that can be seen at this size": 1,
    }


def test_images_without_what_they_need_are_counted(coco: SmallCoco) -> None:
    whole = box(10, 10, 40, 40)
    coco.add(whole, caption="a scene \ud83d")  # half of an emoji
    coco.add()
    coco.add(whole, caption=None)
    coco.add(whole, caption="  ")
    (coco.folder / "images" / f"{coco.add(whole)}.png").unlink()
    broken = coco.folder / "images" / f"{coco.add(whole)}.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (coco.folder / "images" / f"{coco.add(whole)}.png").write_bytes(b"")
    coco.add({"size": [SIZE, SIZE], "counts": [5, 3]})
    for polygon in ([1e30, 1, 2, 3, 4, 5], [10**400, 1, 2, 3, 4, 5], ["x", "y"] * 3):
        coco.add([polygon])
    coco.add([])
    coco.add(whole)
    coco.images[-1]["width"] = SIZE + 1
    unlisted = [{**coco.annotations[-1], "image_id": image} for image in (99, 99, "1")]
    coco.annotations += [entry | {"id": n} for n, entry in enumerate(unlisted)]
    coco.captions.append({"id": 900, "image_id": 99, "caption": "nothing"})
    manifest, samples = coco.prepare()
    assert set(samples) == {1}
    assert manifest.rejected == {
        "annotation: of an image that is not listed": 3,
        "caption: of an image that is not listed": 1,
        "image: no annotations": 1,
        "image: no captions": 2,
        "image: missing file": 1,
        "image: unreadable file": 2,
        "image: missing or damaged segmentation": 5,
        "image: size differs from the annotation's": 1,
    }
    assert samples[1]["meta"]["captions"] == ["a scene"]
    assert samples[1]["meta"]["licence"] == "CC BY http://example.org"


def test_without_captions_the_categories_make_one(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 30, 30), box(30, 10, 50, 30))
    _, samples = coco.prepare(captions=None)
    assert samples[1]["meta"]["captions"] == ["a photo of an apple and a boat"]


BUCKETS = ((64, 64), (64, 128), (128, 64))


def test_an_image_gets_the_bucket_nearest_to_its_shape(coco: SmallCoco) -> None:
    for size in ((64, 64), (70, 130), (120, 64), (64, 84)):
        coco.add(box(20, 20, 40, 40), size=size)
    manifest, samples = coco.prepare(buckets=BUCKETS)
    found = [samples[number]["meta"]["bucket"] for number in range(1, 5)]
    assert found == ["64x64", "64x128", "128x64", "64x64"]
    assert manifest.buckets == {"64x64": 2, "64x128": 1, "128x64": 1}
    for sample in samples.values():
        height, width = sample["meta"]["size"]
        assert sample["scene"].shape[:2] == sample["mask"].shape == (height, width)
        assert sample["meta"]["bucket"] == f"{height}x{width}"
    assert samples[2]["meta"]["original_size"] == [70, 130]
    assert [record.bucket for record in manifest.shards] == ["64x64", "64x128", "128x64"]


def test_a_bucket_that_would_cut_an_element_gives_way_to_the_next(coco: SmallCoco) -> None:
    coco.add(box(10, 3, 40, 60), size=(64, 100))  # 64x128 is nearer, but only 50 rows of it stay
    coco.add(box(10, 10, 90, 40), size=(64, 100))  # 64x64 would cut this one
    coco.add(box(5, 3, 20, 60), box(80, 10, 95, 60), size=(64, 100))  # not both fit anywhere
    manifest, samples = coco.prepare(buckets=BUCKETS, soften=0.0)
    assert [samples[number]["meta"]["bucket"] for number in (1, 2)] == ["64x64", "64x128"]
    assert (samples[1]["mask"] > 127).sum() == 30 * 57
    assert len(samples[3]["meta"]["elements"]) == 1
    assert manifest.rejected == {"group: does not fit into the crop": 1}


def test_a_farther_bucket_is_only_for_want_of_room(coco: SmallCoco) -> None:
    coco.add(box(20, 20, 40, 40), box(50, 20, 60, 28), size=(64, 84))  # 64x128 keeps less: a larger
    manifest, samples = coco.prepare(buckets=BUCKETS)  # share, and the second would be taken there
    assert samples[1]["meta"]["bucket"] == "64x64"
    assert manifest.rejected == {"group: under the minimum area": 1}


def test_an_image_is_enlarged_to_double_at_most_unless_told_otherwise(coco: SmallCoco) -> None:
    coco.add(box(5, 5, 20, 20), size=(32, 32))
    coco.add(box(5, 5, 20, 20), size=(31, 40))
    manifest, samples = coco.prepare()
    assert set(samples) == {1}
    assert manifest.rejected == {"image: too small for the scene": 1}
    assert set(coco.prepare(min_scale=0.4, out=coco.folder / "more")[1]) == {1, 2}
    _, samples = coco.prepare(buckets=((64, 64), (48, 64)), out=coco.folder / "fits")
    assert samples[2]["meta"]["bucket"] == "48x64"


def test_masks_off_the_images_edges_can_be_left_out(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 40, 40))
    coco.add(box(10, 10, 30, 50), box(40, 10, 60, 50))
    for number, left in ((1, 10), (2, 10)):
        path = coco.folder / "images" / f"{number}.png"
        image = cv2.imread(path)
        image[10:50, left : left + 20] = (0, 0, 255)  # the first element of the second image
        cv2.imwrite(path, image)
    _, samples = coco.prepare()
    quality = [element["mask_quality"] for element in samples[2]["meta"]["elements"]]
    assert sorted(quality)[0] < 0.5 < sorted(quality)[1] <= 1
    manifest, samples = coco.prepare(min_mask_quality=0.5, out=coco.folder / "good")
    assert manifest.rejected == {
        "group: a mask's edge that does not follow the image's": 2,
        "image: no acceptable group": 1,
    }
    assert [element["category"] for element in samples[2]["meta"]["elements"]] == ["apple"]
    assert (samples[2]["mask"][:, 40:] == 0).all()


def test_more_elements_than_can_be_numbered_are_counted(coco: SmallCoco) -> None:
    squares = [box(x, y, x + 2, y + 2) for y in range(4, 124, 4) for x in range(4, 124, 4)]
    coco.add(*squares[:256], size=(128, 128))
    coco.annotations = [row | {"category_id": 1} for row in coco.annotations]
    coco.add(box(20, 20, 100, 100), size=(128, 128))
    manifest, samples = coco.prepare(buckets=((128, 128),), min_area_share=0.0)
    assert set(samples) == {2}
    assert manifest.rejected == {"image: more than 255 elements": 1}
