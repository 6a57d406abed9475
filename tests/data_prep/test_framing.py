"""Resizing: the scene against Pillow's LANCZOS, masks against exact areas, both in one place."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.boxes import Box
from data_prep.framing import Coverage, Framing, number_elements, soften, union
from data_prep.images import decode_image

COCO_MINI = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_mini"
SIZES = [(256, 256), (192, 256), (225, 153), (255, 383), (512, 384), (335, 341), (120, 160)]


def photo(height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photos, H W 3."""
    noise = np.random.default_rng(0).normal(size=(3, height, width))
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    )
    spectrum = np.fft.rfft2(noise) / np.maximum(frequency, 1 / 256) ** 1.3
    picture = np.moveaxis(np.fft.irfft2(spectrum, s=(height, width)), 0, -1)
    return (128 + 40 * picture / picture.std()).clip(0, 255).astype(np.uint8)


def decibels(first: np.ndarray, second: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(first.astype(float) - second).mean()))


def framed_by_pillow(image: Image.Image, framing: Framing) -> np.ndarray:
    size = framing.resized[::-1]
    height, width = framing.bucket
    resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    return np.asarray(resized.crop((0, 0, width, height)))[..., ::-1]


@pytest.mark.parametrize("size", SIZES)
def test_a_scene_is_near_to_what_lanczos_gives(size: tuple[int, int], tmp_path: Path) -> None:
    framing = Framing(*size, (128, 128))
    for name in ("scene.jpg", "scene.png"):
        Image.fromarray(photo(*size)).save(tmp_path / name, quality=92)
        image = decode_image(tmp_path / name, framing.reduction)
        expected = framed_by_pillow(Image.open(tmp_path / name), framing)
        assert decibels(framing.apply(image, (0, 0), framing.reduction), expected) > 35.5


@pytest.mark.skipif(not COCO_MINI.is_dir(), reason=f"no real images: {COCO_MINI}")
def test_scenes_of_real_photos_are_near_to_what_lanczos_gives() -> None:
    found = []
    for path in sorted((COCO_MINI / "images").iterdir())[:12]:
        with Image.open(path) as image:
            framing = Framing(image.height, image.width, (192, 192))
            expected = framed_by_pillow(image, framing)
        scene = decode_image(path, framing.reduction)
        found.append(decibels(framing.apply(scene, (0, 0), framing.reduction), expected))
    assert min(found) > 30
    assert np.mean(found) > 36


def blobs(height: int, width: int) -> np.ndarray:
    """A mask of round and sharp shapes that keeps away from the border."""
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 3, height // 2), (width // 5, height // 4), 30, 0, 360, 1, -1)
    corners = np.array([[0.6, 0.3], [0.9, 0.8], [0.7, 0.7]]) * (width, height)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (1,))
    return mask


def exact_coverage(mask: np.ndarray, framing: Framing) -> np.ndarray:
    """The share of each pixel of the resized image that the mask covers, up to its last pixel."""
    for axis, length in enumerate(framing.resized):
        total = np.insert(np.cumsum(mask, axis, dtype=float), 0, 0, axis)
        edges = np.linspace(0, mask.shape[axis], length + 1)
        whole = np.minimum(edges.astype(int), mask.shape[axis] - 1)
        rest = (edges - whole).reshape(-1, 1) if axis == 0 else edges - whole
        at = total.take(whole, axis) * (1 - rest) + total.take(whole + 1, axis) * rest
        mask = np.diff(at, axis=axis) * length / mask.shape[axis]
    return mask


def covered(mask: np.ndarray, framing: Framing, corner: tuple[int, int]) -> np.ndarray:
    box = Box.around(mask)
    return union([framing.cover(box.cut(mask), box, corner)], framing.bucket)


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_covers_what_an_exact_area_resize_gives(size: tuple[int, int]) -> None:
    framing, mask = Framing(*size, (128, 128)), blobs(*size)
    corner = tuple((whole - 128) // 2 for whole in framing.resized)
    expected = exact_coverage(mask, framing)[corner[0] :, corner[1] :][:128, :128]
    found = covered(mask, framing, corner)
    inside, wanted = found >= 128, expected >= 0.5
    assert (inside & wanted).sum() / (inside | wanted).sum() > 0.985
    assert np.abs(found / 255 - expected).mean() < 0.004
    for axis in (0, 1):  # and it is where it should be
        centres = [np.average(np.arange(128), weights=m.sum(1 - axis)) for m in (found, expected)]
        assert centres[0] == pytest.approx(centres[1], abs=0.03)


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_lies_where_the_scene_shows_it(size: tuple[int, int]) -> None:
    framing, mask = Framing(*size, (128, 128)), blobs(*size)
    scene = framing.apply(mask * np.uint8(255), (0, 0))
    assert np.abs(covered(mask, framing, (0, 0)).astype(int) - scene).mean() < 1.5


def test_a_bucket_of_the_images_own_size_changes_nothing() -> None:
    framing, mask, image = Framing(40, 48, (40, 48)), blobs(40, 48), photo(40, 48)
    assert np.array_equal(framing.apply(image, (0, 0)), image)
    assert np.array_equal(covered(mask, framing, (0, 0)), mask * 255)


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
