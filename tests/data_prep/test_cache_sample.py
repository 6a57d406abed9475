"""The foreground of a cached sample: of the scene what a hint can show, and no more."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from anyscene.config import DataConfig
from anyscene.config_checks import AT_MOST
from anyscene.data.augmentation import augmented_hint
from data_prep.cache_sample import BLOCK, GREY, MARGIN, cut_out
from data_prep.images import encode_scene


def smooth_scene(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of colour with some grain, as a photo has."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    grain = random.normal(0, 4, (height, width, 3))
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def disc(height: int, width: int) -> NDArray[np.uint8]:
    """A soft disc that lies on no block's edge."""
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2 + 3, height // 2 - 2), min(height, width) // 4, 255, -1)
    return cv2.GaussianBlur(mask, (5, 5), 1.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(9, 70), st.integers(9, 70), st.integers(0, 2**32 - 1))
def test_all_near_the_mask_is_kept_and_all_else_is_grey(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scene = random.integers(0, 127, (height, width, 3), np.uint8)  # never the grey
    mask = np.zeros((height, width), np.uint8)
    mask[random.integers(height), random.integers(width)] = 1
    mask[random.integers(height), random.integers(width)] = 255
    kept = (cut_out(scene, mask) != GREY).all(axis=2)
    assert (cut_out(scene, mask)[kept] == scene[kept]).all()
    assert (cut_out(scene, mask)[~kept] == GREY).all()
    rows, columns = np.nonzero(mask)
    far = np.max(
        np.abs(np.indices(mask.shape)[:, None] - np.stack([rows, columns])[:, :, None, None]),
        axis=0,
    ).min(axis=0)  # pixels to the next one of the mask, along the farther axis
    assert kept[far <= MARGIN].all()
    assert not kept[far >= MARGIN + BLOCK].any()
    for block in np.ndindex(-(-height // BLOCK), -(-width // BLOCK)):
        part = kept[tuple(slice(BLOCK * n, BLOCK * n + BLOCK) for n in block)]
        assert part.all() or not part.any()


def decoded(data: bytes) -> NDArray[np.uint8]:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    error = np.square(one.astype(float) - other)[where].mean()
    return float(-10 * np.log10(error / 255**2))


def test_a_second_jpeg_costs_little_inside_the_mask() -> None:
    """Whole blocks are quantised to what they were; blocks cut at the mask's edge are not."""
    mask = disc(128, 160)
    scene = decoded(encode_scene(smooth_scene(128, 160), lossless=False))
    again = decoded(encode_scene(cut_out(scene, mask), lossless=False))
    cut_at_the_edge = np.where(mask[..., None] > 0, scene, np.uint8(GREY))
    naive = decoded(encode_scene(cut_at_the_edge, lossless=False))
    assert psnr(again, scene, mask > 0) > 50
    assert psnr(again, scene, mask > 0) > psnr(naive, scene, mask > 0) + 5


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_the_hint_of_a_lossless_foreground_is_that_of_the_scene(strength: float) -> None:
    mask, scene = disc(64, 96), smooth_scene(64, 96)
    hints = []
    data = DataConfig(
        exposure_stops=strength,
        tint=strength / 2,
        canvas_colour=strength / 2,
        mask_jitter=strength * AT_MOST["data.mask_jitter"],
    )
    slots = torch.arange(16)
    for image in (scene, cut_out(scene, mask)):
        rgb = torch.from_numpy(image).permute(2, 0, 1).float()[None] / 255
        alpha = torch.from_numpy(mask).float()[None, None] / 255
        shown = augmented_hint(rgb.repeat(16, 1, 1, 1), alpha.repeat(16, 1, 1, 1), slots, data, 0)
        hints.append(shown)
    assert torch.equal(*hints)
