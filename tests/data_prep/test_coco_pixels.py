"""The pixels of a sample: colour modes, orientation, framing, soft edges, and truth beside them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_coco import SmallCoco, box

from anyscene.errors import InputError

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


def test_the_mask_has_no_seam_where_elements_meet(coco: SmallCoco) -> None:
    coco.add(box(20, 20, 52, 80), box(52, 20, 80, 80), size=(100, 100))  # 52: within a pixel at 64
    _, samples = coco.prepare(soften=0)
    assert (samples[1]["mask"][14:50, 14:50] == 255).all()
    assert np.unique(samples[1]["elements"][14:50, 14:50]).tolist() == [1, 2]
