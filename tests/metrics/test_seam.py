"""CIELAB against OpenCV; seam and colour shift on scenes whose seams and shifts are known."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from anyscene.compositing.blending import feathered
from anyscene.metrics.colour import srgb_to_lab
from anyscene.metrics.seam import SeamMetrics, colour_shift, seam


def test_lab_of_primaries():
    """The values of B. Lindbloom's calculator for sRGB and D65."""
    primaries = torch.eye(3)[None, :, :, None]  # 1 3 3 1: red, green, blue
    expected = [[53.2408, 80.0925, 67.2032], [87.7347, -86.1827, 83.1793]]
    expected += [[32.2970, 79.1875, -107.8602]]
    ours = srgb_to_lab(primaries)[0, :, :, 0].T
    torch.testing.assert_close(ours, torch.tensor(expected), atol=0.01, rtol=0)


def test_lab_is_near_that_of_opencv():
    """Whose own is a table, within 0.3 of the definition."""
    image = torch.rand(2, 3, 17, 19, generator=torch.Generator().manual_seed(0))
    image[0, :, 0, :2] = torch.tensor([0.0, 1.0])
    for own, ours in zip(image, srgb_to_lab(image), strict=True):
        pixels = np.ascontiguousarray(own.permute(1, 2, 0).numpy())
        theirs = torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab))
        torch.testing.assert_close(ours.permute(1, 2, 0), theirs, atol=0.35, rtol=0)


def texture(seed=0, size=96):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, size // 4, size // 4, generator=generator)
    return 0.3 + 0.3 * interpolate(coarse, (size, size), mode="bilinear")


def disc(size=96, radius=26):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = torch.hypot(y - size / 2 + 0.5, x - size / 2 + 0.5)
    return (radius - distance + 0.5).clamp(0, 1)[None, None]


def test_seam_is_zero_without_one_and_grows_with_it():
    scene, alpha = texture(), disc()
    steps = [seam(scene + step * alpha, alpha).item() for step in (0, 0.1, 0.2, 0.4)]
    assert steps[0] == pytest.approx(0, abs=0.15)
    assert steps == sorted(steps)
    assert steps[1] > steps[0] + 0.15


def test_seam_falls_with_a_wider_transition():
    scene, alpha = texture(), disc()
    hard, soft = (seam(scene + 0.3 * weight, alpha) for weight in (alpha, feathered(alpha, 8)))
    assert soft.item() < hard.item() - 0.5


def test_seam_is_relative_to_its_neighbourhood():
    """The same step hides in a coarse texture and stands out on a smooth one."""
    alpha = disc()
    smooth, busy = 0.5 + 0.1 * (texture() - 0.45), texture()
    assert seam(smooth + 0.1 * alpha, alpha) > seam(busy + 0.1 * alpha, alpha) + 1


def test_seam_without_an_outline_is_missing_and_of_flat_images_zero():
    flat = torch.full((1, 3, 96, 96), 0.5)
    assert seam(flat, torch.zeros(1, 1, 96, 96)).isnan().all()
    assert seam(flat, disc()).item() == 0


def test_colour_shift_of_known_colours():
    """Grey 0.5 has L* = 53.389, grey 0.6 has 63.223; outside the core nothing counts."""
    alpha = disc()
    one, other = torch.full((1, 3, 96, 96), 0.5), torch.full((1, 3, 96, 96), 0.6)
    assert colour_shift(other, one, alpha).item() == pytest.approx(63.223 - 53.389, abs=0.01)
    around = torch.where(alpha > 0.5, one, other)
    assert colour_shift(around, one, alpha).item() == pytest.approx(0, abs=1e-3)
    assert colour_shift(one, other, torch.zeros(1, 1, 96, 96)).isnan().all()


def test_colour_shift_is_of_means():
    scene, alpha = texture(), disc()
    noise = 0.02 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(1))
    assert colour_shift(scene + noise, scene, alpha) < 0.5 < colour_shift(scene + 0.1, scene, alpha)


def test_seam_metric_keeps_both_values():
    metric = SeamMetrics()
    scene, alpha = texture(), disc()
    metric.update(scene + 0.2 * alpha, scene, alpha)
    metric.update(scene, scene, alpha)
    values = metric.per_image()
    assert values["seam"][0] > values["seam"][1]
    assert values["colour_shift"][0] > 10 > values["colour_shift"][1] == 0
