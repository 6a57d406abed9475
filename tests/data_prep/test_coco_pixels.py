"""The pixels of a sample: colour modes, orientation, framing, soft edges, and truth beside them."""

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_coco import SmallCoco, box

from anyscene.errors import InputError
from data_prep.boxes import Box
from data_prep.framing import Coverage, Framing, number_elements, soften

# pycocotools 2.0.11 on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def coco(tmp_path: Path) -> SmallCoco:
    return SmallCoco(tmp_path / "coco")


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_any_colour_mode_becomes_the_scene_that_pillow_shows(coco: SmallCoco, mode: str) -> None:
    coco.add(box(10, 10, 40, 40), mode=mode, name="{}.jpg", quality=95)
    _, samples = coco.prepare()
    expected = np.asarray(Image.open(coco.folder / "images" / "1.jpg").convert("RGB"))
    assert samples[1]["names"][-1] == "scene.png"
    assert np.abs(samples[1]["scene"][..., ::-1].astype(int) - expected).max() <= 1


def test_orientation_in_exif_is_not_applied(coco: SmallCoco) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = box(10, 10, 40, 40)
    coco.add(whole, name="{}.jpg", size=(64, 80), exif=turned, quality=95)
    coco.add(whole, name="{}.jpg", size=(64, 80), exif=turned)
    coco.images[-1] |= {"height": 80, "width": 64}  # annotated as displayed
    manifest, samples = coco.prepare()
    assert manifest.rejected == {"image: size differs from the annotation's": 1}
    left = samples[1]["meta"]["crop_top_left"][1]
    stored = np.asarray(Image.open(coco.folder / "images" / "1.jpg"))[:, left : left + 64]
    assert np.abs(samples[1]["scene"][..., ::-1].astype(int) - stored).max() <= 1
    assert samples[1]["mask"][20, 20 - left] == 255


def test_large_photos_are_stored_as_jpeg_and_png_stays_lossless(coco: SmallCoco) -> None:
    whole = box(40, 40, 120, 120)
    coco.add(whole, name="{}.jpg", size=(200, 200))
    coco.add(whole, name="{}.png", size=(200, 200))
    _, samples = coco.prepare(buckets=((144, 144),))
    assert "scene.jpg" in samples[1]["names"]
    assert "scene.png" in samples[2]["names"]


def test_soft_edges_reach_two_pixels_and_no_farther() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 8:33] = 255
    soft = soften(mask, 1.0)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8)) == 255
    outside = cv2.dilate(mask, np.ones((5, 5), np.uint8)) == 0
    assert (soft[inside] == 255).all()
    assert (soft[outside] == 0).all()
    assert 0 < soft[20, 7] < 128 < soft[20, 8] < 255
    assert soften(mask, 0.0) is mask


def test_the_smaller_element_lies_on_top_and_a_hidden_one_has_no_number() -> None:
    large, small, hidden = np.zeros((3, 10, 10), np.uint8)
    large[1:9, 1:9] = 255
    small[3:6, 3:6] = 255
    hidden[4, 4] = 100  # less than half of a pixel
    coverages = [Coverage(Box(0, 0, 10, 10), mask) for mask in (large, hidden, small)]
    numbers, seen = number_elements(coverages, (10, 10))
    assert seen == [0, 2]
    assert np.array_equal(numbers == 2, small > 0)
    assert (numbers == 1).sum() == 64 - 9


def test_framing_covers_buckets_of_any_shape() -> None:
    framing = Framing(480, 640, (512, 768))
    assert framing.resized == (576, 768)
    window = framing.window().keeping(framing.scaled(Box(0, 10, 100, 600)))
    assert window is not None
    assert (window.rows.low, window.rows.high) == (0, 0)  # it begins at the image's own edge
    image = np.zeros((480, 640, 3), np.uint8)
    assert framing.apply(image, (0, 0)).shape == (512, 768, 3)


def test_truth_goes_along_with_its_images(coco: SmallCoco, tmp_path: Path) -> None:
    coco.add(box(10, 10, 40, 40), box(45, 45, 60, 60))
    coco.add(box(10, 10, 40, 40), size=(64, 128))
    coco.add(box(10, 10, 40, 40))
    shadow = np.random.default_rng(0).integers(0, 255, (64, 128), np.uint8)
    Image.fromarray(shadow[:, :64]).save(tmp_path / "one.png")
    Image.fromarray(shadow).save(tmp_path / "two.png")
    lines = [
        {"image_id": 1, "light": "left", "shadow": "one.png", "shadow_swapped": "one.png"},
        {"image_id": 2, "shadow": "two.png"},
    ]
    truth = tmp_path / "truth.jsonl"
    truth.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, samples = coco.prepare(truth=tmp_path, source="demo")
    kept = samples[1]["meta"]["truth"]
    assert samples[1]["meta"]["key"] == "demo-000000000001"
    assert kept.keys() == {"light", "shadow", "shadow_swapped"}
    assert base64.b64decode(kept["shadow"]) == (tmp_path / "one.png").read_bytes()
    left = samples[2]["meta"]["crop_top_left"][1]
    cropped = Image.open(io.BytesIO(base64.b64decode(samples[2]["meta"]["truth"]["shadow"])))
    assert np.array_equal(np.asarray(cropped), shadow[:, left : left + 64])
    assert samples[3]["meta"]["truth"] is None
    (tmp_path / "one.png").unlink()
    with pytest.raises(InputError, match=r"image 1, shadow: no such file: .*one\.png"):
        coco.prepare(truth=tmp_path, out=tmp_path / "again")
