"""Resizing: the scene against Pillow's LANCZOS, masks against exact areas, both in one place."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.framing import Framing
from data_prep.images import decode_image

COCO_MINI = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_mini"
SIZES = [(256, 256), (192, 256), (225, 153), (255, 383), (512, 384), (335, 341), (120, 160)]


def photo(height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photos, H W 3."""
    noise = np.random.default_rng(0).normal(size=(3, height, width))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij"))
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
    for name, least in (("scene.jpg", 36), ("scene.png", 36)):
        Image.fromarray(photo(*size)).save(tmp_path / name, quality=92)
        image = decode_image(tmp_path / name, framing.reduction)
        expected = framed_by_pillow(Image.open(tmp_path / name), framing)
        print(size, name, decibels(framing.apply(image, (0, 0)), expected))
        assert decibels(framing.apply(image, (0, 0)), expected) > least
