"""The hint against scipy's morphology, the sRGB curves against known values."""

from itertools import pairwise

import pytest
import torch
from scipy import ndimage

from anyscene.compositing.hint import (
    HINT_CHANNELS,
    dilate,
    erode,
    jitter_alpha,
    jitter_foreground,
    linear_to_srgb,
    make_hint,
    random_canvas,
    srgb_to_linear,
)


def scene(height=40, width=52, batch=2):
    generator = torch.Generator().manual_seed(3)
    rgb = torch.rand(batch, 3, height, width, generator=generator)
    alpha = torch.rand(batch, 1, height // 4, width // 4, generator=generator)
    return rgb, torch.nn.functional.interpolate(alpha, (height, width), mode="bilinear")


@pytest.mark.parametrize(("height", "width", "radius"), [(40, 52, 1), (256, 400, 2)])
def test_edge_band_equals_scipy_grey_dilation_minus_erosion(height, width, radius):
    rgb, alpha = scene(height, width)
    hint = make_hint(rgb, alpha)
    size = (1, 1, 2 * radius + 1, 2 * radius + 1)
    mask = (alpha > 0.5).float().numpy()
    expected = ndimage.grey_dilation(mask, size, mode="nearest") - ndimage.grey_erosion(
        mask, size, mode="nearest"
    )
    assert hint.shape == (2, HINT_CHANNELS, height, width)
    assert torch.equal(hint[:, 4:], torch.from_numpy(expected))
    assert 0.05 < hint[:, 4].mean() < 0.95


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_dilation_and_erosion_of_soft_values_equal_scipy(radius):
    _, alpha = scene()
    size = (1, 1, 2 * radius + 1, 2 * radius + 1)
    for ours, theirs in [(dilate, ndimage.grey_dilation), (erode, ndimage.grey_erosion)]:
        expected = torch.from_numpy(theirs(alpha.numpy(), size, mode="nearest"))
        assert torch.equal(ours(alpha, radius), expected)


def test_colour_is_on_grey_and_alpha_is_kept():
    rgb, alpha = scene()
    hint = make_hint(rgb, alpha)
    assert torch.equal(hint[:, 3:4], alpha)
    torch.testing.assert_close(hint[:, :3], torch.lerp(torch.full_like(rgb, 0.5), rgb, alpha))
    assert hint.min() >= 0
    assert hint.max() <= 1


def test_what_is_behind_the_background_does_not_reach_the_hint():
    rgb, alpha = scene()
    alpha = (alpha > 0.5).float()
    other = torch.where(alpha > 0, rgb, 1 - rgb)
    assert torch.equal(make_hint(rgb, alpha), make_hint(other, alpha))
    assert (make_hint(rgb, alpha)[:, :3][alpha.expand_as(rgb) == 0] == 0.5).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_image_border_is_no_edge(value):
    hint = make_hint(torch.rand(1, 3, 16, 20), torch.full((1, 1, 16, 20), value))
    assert (hint[:, 4] == 0).all()


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\) and \(1, 1, 8, 9\)"):
        make_hint(torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 9))


def test_srgb_curves():
    """Reference: 0.5 and 188/255 in sRGB are 0.2140 and half of the linear light."""
    srgb = torch.linspace(0, 1, 1024, dtype=torch.float64)
    linear = srgb_to_linear(srgb)
    torch.testing.assert_close(linear_to_srgb(linear), srgb, atol=1e-7, rtol=0)
    assert (linear.diff() > 0).all()
    known = srgb_to_linear(torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64))
    expected = torch.tensor([0.0, 0.0031308, 0.2140411, 1.0], dtype=torch.float64)
    torch.testing.assert_close(known, expected, atol=1e-7, rtol=0)


def test_jitter_of_strength_zero_is_the_input():
    rgb, alpha = scene()
    assert torch.equal(jitter_foreground(rgb, alpha, torch.rand(2, 3), 0.0, 0.0), rgb)


def test_jitter_of_middle_uniforms_changes_nothing_visible():
    rgb, alpha = scene()
    lit = jitter_foreground(rgb, alpha, torch.full((2, 3), 0.5), 1.0, 0.5)
    torch.testing.assert_close(lit, rgb, atol=2e-6, rtol=0)


def test_jitter_and_its_opposite_give_the_input_back():
    rgb, _ = scene()
    rgb = 0.1 + 0.4 * rgb  # far from clipping
    alpha = torch.ones_like(rgb[:, :1])
    there = jitter_foreground(rgb, alpha, torch.tensor([[0.9, 0.5, 0.5]] * 2), 0.5, 0.0)
    back = jitter_foreground(there, alpha, torch.tensor([[0.1, 0.5, 0.5]] * 2), 0.5, 0.0)
    assert (there - rgb).mean() > 0.02
    torch.testing.assert_close(back, rgb, atol=1e-5, rtol=0)


def test_a_stop_of_exposure_doubles_the_linear_light():
    grey = torch.full((1, 3, 4, 4), 0.4)
    lit = jitter_foreground(grey, torch.ones(1, 1, 4, 4), torch.tensor([[1.0, 0.5, 0.5]]), 1.0, 0.0)
    torch.testing.assert_close(srgb_to_linear(lit), 2 * srgb_to_linear(grey))


@pytest.mark.parametrize(("axis", "brighter", "darker"), [(1, [0], [2]), (2, [1], [0, 2])])
def test_a_tint_moves_its_channels_and_keeps_the_luminance(axis, brighter, darker):
    grey = torch.full((1, 3, 4, 4), 0.4)
    uniforms = torch.full((1, 3), 0.5)
    uniforms[0, axis] = 0.99
    lit = jitter_foreground(grey, torch.ones(1, 1, 4, 4), uniforms, 0.0, 0.4)
    assert (lit[:, brighter] > 0.41).all()
    assert (lit[:, darker] < 0.39).all()
    weights = torch.tensor([0.2126, 0.7152, 0.0722])[None, :, None, None]
    before, after = ((srgb_to_linear(image) * weights).sum(1) for image in (grey, lit))
    torch.testing.assert_close(after, before)


def test_jitter_is_per_sample_and_leaves_the_background_alone():
    rgb, alpha = scene()
    alpha = (alpha > 0.5).float()
    uniforms = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.4, 0.7]])
    both = jitter_foreground(rgb, alpha, uniforms, 1.0, 0.5)
    for index in range(2):
        part = slice(index, index + 1)
        alone = jitter_foreground(rgb[part], alpha[part], uniforms[part], 1.0, 0.5)
        assert torch.equal(both[part], alone)
    outside = alpha.expand_as(rgb) == 0
    assert torch.equal(both[outside], rgb[outside])
    assert not torch.equal(both, rgb)
    assert both.min() >= 0
    assert both.max() <= 1


@pytest.mark.parametrize("distance", [-2, -1, 0, 1, 2])
def test_a_jittered_alpha_equals_scipy_morphology_at_whole_pixels(distance):
    _, alpha = scene()
    uniforms = torch.full((2,), 0.5 + distance / 4)
    size = (1, 1, 2 * abs(distance) + 1, 2 * abs(distance) + 1)
    theirs = ndimage.grey_dilation if distance > 0 else ndimage.grey_erosion
    expected = torch.from_numpy(theirs(alpha.numpy(), size, mode="nearest"))
    assert torch.equal(jitter_alpha(alpha, uniforms, 2.0), expected)


def test_a_soft_edge_is_moved_and_stays_as_soft():
    ramp = ((torch.arange(20) - 8) / 4).clamp(0, 1)
    alpha = ramp.expand(1, 1, 9, 20)
    outward = jitter_alpha(alpha, torch.tensor([1.0]), 1.0)
    inward = jitter_alpha(alpha, torch.tensor([0.0]), 1.0)
    assert torch.equal(outward[..., :-1], alpha[..., 1:])
    assert torch.equal(inward[..., 1:], alpha[..., :-1])
    half = jitter_alpha(alpha, torch.tensor([0.75]), 1.0)
    torch.testing.assert_close(half, (outward + alpha) / 2)


def test_a_jittered_alpha_grows_with_its_uniform_and_stays_in_range():
    _, alpha = scene(batch=1)
    levels = [jitter_alpha(alpha, torch.tensor([u]), 1.7) for u in torch.linspace(0, 0.999, 21)]
    assert all((above - below).min() >= -1e-6 for below, above in pairwise(levels))
    assert all(level.min() >= 0 and level.max() <= 1 for level in levels)
    assert levels[-1].mean() - levels[0].mean() > 0.05


def test_a_jittered_alpha_is_per_sample_and_strength_zero_is_the_input():
    _, alpha = scene()
    uniforms = torch.tensor([0.1, 0.8])
    both = jitter_alpha(alpha, uniforms, 2.0)
    assert torch.equal(both[1:], jitter_alpha(alpha[1:], uniforms[1:], 2.0))
    assert torch.equal(jitter_alpha(alpha, uniforms, 0.0), alpha)


def test_a_random_canvas_is_behind_the_foreground_alone():
    rgb, alpha = scene()
    alpha = (alpha > 0.5).float()
    uniforms = torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.75, 0.5]])
    canvas = random_canvas(uniforms, 0.4)
    torch.testing.assert_close(canvas[0].flatten(), torch.tensor([0.1, 0.5, 0.9]))
    plain, coloured = make_hint(rgb, alpha), make_hint(rgb, alpha, canvas)
    inside = (alpha > 0).expand_as(rgb)
    assert torch.equal(coloured[:, :3][inside], plain[:, :3][inside])
    assert torch.equal(coloured[:, :3][~inside], canvas.expand_as(rgb)[~inside])
    assert torch.equal(coloured[:, 3:], plain[:, 3:])
    assert torch.equal(make_hint(rgb, alpha, random_canvas(uniforms, 0.0)), plain)
