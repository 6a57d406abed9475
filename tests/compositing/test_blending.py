"""Blending: properties, direct solutions by scipy, and real photos under another light."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve
from torch.nn.functional import interpolate

from anyscene.compositing.blending import (
    blend,
    eroded_mask,
    feathered,
    gaussian,
    masked_gaussian,
    membrane,
)
from anyscene.compositing.hint import linear_to_srgb, srgb_to_linear
from anyscene.config import Blend
from anyscene.errors import InputError

ACTIVE = [mode for mode in Blend if mode is not Blend.none]


def smooth_noise(*shape, seed=0, factor=4):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:-2], shape[-2] // factor, shape[-1] // factor, generator=generator)
    return interpolate(coarse, shape[-2:], mode="bilinear")


def disc_alpha(height=48, width=64, radius=16, soft=True):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.hypot(y - height / 2 + 0.5, x - width / 2 + 0.5)
    alpha = (radius - distance + 0.5).clamp(0, 1) if soft else (distance < radius).float()
    return alpha[None, None]


def pair(height=48, width=64, batch=1):
    generated = smooth_noise(batch, 3, height, width, seed=1)
    foreground = smooth_noise(batch, 3, height, width, seed=2, factor=2)
    return generated, foreground, disc_alpha(height, width).repeat(batch, 1, 1, 1)


def to_levels(image):
    return (image * 255).round().int()


@pytest.mark.parametrize("mode", list(Blend))
def test_equal_images_blend_to_themselves(mode):
    generated, _, alpha = pair()
    torch.testing.assert_close(
        blend(generated, generated, alpha, mode, k=0.3), generated, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("mode", ACTIVE)
@pytest.mark.parametrize("feather", [0.0, 1.5, 6.0])
def test_nothing_outside_the_mask_changes_and_something_inside_does(mode, feather):
    generated, foreground, alpha = pair()
    blended = blend(generated, foreground, alpha, mode, k=0.5, feather=feather)
    outside = (alpha == 0).expand_as(generated)
    assert torch.equal(blended[outside], generated[outside])
    assert (blended - generated)[~outside].abs().mean() > 0.01
    assert blended.min() >= 0
    assert blended.max() <= 1


@pytest.mark.parametrize("mode", ACTIVE)
def test_colours_under_transparent_pixels_do_not_matter(mode):
    generated, foreground, alpha = pair()
    hidden = torch.where(alpha > 0, foreground, 1.0)
    ours, other = (blend(generated, image, alpha, mode, k=0.2) for image in (foreground, hidden))
    torch.testing.assert_close(ours, other, atol=1e-6, rtol=0)


def test_mode_none_is_the_generated_scene():
    generated, foreground, alpha = pair()
    assert blend(generated, foreground, alpha, Blend.none) is generated


@pytest.mark.parametrize("mode", [Blend.alpha, Blend.detail])
@pytest.mark.parametrize("feather", [0.0, 1.0, 1.5, 4.0])
def test_k_one_gives_the_foreground_back_bit_for_bit(mode, feather):
    generated, _, alpha = pair()
    foreground = torch.randint(0, 256, generated.shape, generator=torch.Generator().manual_seed(5))
    foreground = foreground / 255
    blended = blend(generated, foreground, alpha, mode, k=1.0, feather=feather)
    core = eroded_mask(alpha, math.ceil(feather)).expand_as(generated)
    assert core.sum() > 500
    assert torch.equal(blended[core], foreground[core])
    assert torch.equal(to_levels(blended)[core], to_levels(foreground)[core])


def test_k_moves_from_generated_to_own_light():
    alpha = disc_alpha()
    generated, foreground = torch.full((1, 3, 48, 64), 0.4), torch.full((1, 3, 48, 64), 0.6)
    middle = [
        blend(generated, foreground, alpha, Blend.detail, k=k)[0, 0, 24, 32].item()
        for k in (0.0, 0.25, 0.5, 1.0)
    ]
    assert middle == pytest.approx([0.4, 0.45, 0.5, 0.6], abs=1e-5)


@pytest.mark.parametrize("mode", [Blend.detail, Blend.poisson])
def test_more_than_two_stops_are_not_taken_for_light(mode):
    black, grey = torch.zeros(1, 3, 48, 64), torch.full((1, 3, 48, 64), 0.6)
    blended = blend(black, grey, disc_alpha(), mode, k=0.0)
    ratio = srgb_to_linear(blended)[0, 0, 24, 32] / srgb_to_linear(grey)[0, 0, 0, 0]
    assert 0.24 < ratio < (0.26 if mode is Blend.detail else 0.6)


@pytest.mark.parametrize("mode", [Blend.detail, Blend.laplacian, Blend.poisson])
def test_constants_of_different_light_give_no_seam(mode):
    """A step between the constants becomes a slope: no neighbours differ as with plain alpha."""
    alpha = disc_alpha(192, 192, 72)
    generated, foreground = torch.full((1, 3, 192, 192), 0.5), torch.full((1, 3, 192, 192), 0.6)
    blended = blend(generated, foreground, alpha, mode, k=0.0)
    hard = blend(generated, foreground, alpha, Blend.alpha)
    assert steepest(blended) < 0.35 * steepest(hard)


def steepest(image):
    return max(image.diff(dim=-1).abs().max().item(), image.diff(dim=-2).abs().max().item())


@pytest.mark.parametrize("mode", [Blend.detail, Blend.poisson])
def test_another_light_is_taken_over_and_the_texture_kept(mode):
    """A generated scene that is the real one under other light and without detail."""
    _, foreground, alpha = pair()
    foreground = 0.2 + 0.5 * foreground
    gain = torch.tensor([0.5, 0.6, 0.8])[None, :, None, None]
    truth = linear_to_srgb(srgb_to_linear(foreground) * gain)
    generated = gaussian(truth, 1.5, border="replicate")
    blended = blend(generated, foreground, alpha, mode, k=0.0)
    core = eroded_mask(alpha, 2).expand_as(truth)
    error, blurred, unlit = (
        (image - truth)[core].square().mean().sqrt() for image in (blended, generated, foreground)
    )
    assert error < 0.5 * blurred
    assert error < 0.3 * unlit


def test_feather_is_inward_only_and_reaches_one():
    alpha = disc_alpha(soft=True)
    for feather in (0.0, 0.5, 1.5, 4.0):
        weight = feathered(alpha, feather)
        core = eroded_mask(alpha, math.ceil(feather))
        assert (weight[core] == 1).all()
        assert (weight <= alpha + 1e-6)[~core].all()
        assert (weight[alpha == 0] == 0).all()
    row = feathered(disc_alpha(radius=16, soft=False), 1.5)[0, 0, 24, 32:]
    expected = torch.tensor([1.0, 2 / 2.5, 1 / 2.5, 0])
    torch.testing.assert_close(row[13:17], expected)


def test_feather_does_not_fade_at_the_image_border():
    assert (feathered(torch.ones(1, 1, 8, 8), 3.0) == 1).all()


def test_a_matte_just_below_one_counts_as_opaque_and_glass_does_not():
    assert eroded_mask(torch.full((1, 1, 8, 8), 250 / 255), 2).all()
    assert not eroded_mask(torch.full((1, 1, 8, 8), 0.6), 2).any()


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_eroded_mask_equals_scipy(radius):
    alpha = (smooth_noise(1, 1, 40, 48) > 0.35).float()
    structure = np.ones((2 * radius + 1, 2 * radius + 1))
    expected = ndimage.binary_erosion(alpha[0, 0].numpy() > 0, structure, border_value=1)
    assert expected.any()
    assert (eroded_mask(alpha, radius)[0, 0].numpy() == expected).all()


def test_gaussian_equals_scipy():
    image = smooth_noise(2, 3, 40, 48)
    for border, mode in (("constant", "constant"), ("replicate", "nearest")):
        expected = ndimage.gaussian_filter(
            image.numpy(), (0, 0, 2.5, 2.5), mode=mode, radius=(0, 0, 8, 8)
        )
        ours = gaussian(image, 2.5, border)
        torch.testing.assert_close(ours, torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_masked_gaussian_keeps_constants_and_sees_nothing_outside():
    alpha = disc_alpha(soft=False)
    image = torch.where(alpha > 0, 0.4, 9.0).expand(1, 3, -1, -1)
    smooth = masked_gaussian(image, alpha, 3.0)
    inside = (alpha > 0).expand_as(smooth)
    torch.testing.assert_close(smooth[inside], torch.full_like(smooth[inside], 0.4))


def solve_directly(values, inside, screen):
    """laplace(d) = screen d on `inside` by sparse LU in float64; H W arrays."""
    number = np.full(values.shape, -1)
    number[inside] = np.arange(inside.sum())
    matrix = sparse.lil_matrix((inside.sum(), inside.sum()))
    right = np.zeros(inside.sum())
    for y, x in zip(*np.nonzero(inside), strict=True):
        row = number[y, x]
        matrix[row, row] = screen
        for v, u in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
            if not (0 <= v < values.shape[0] and 0 <= u < values.shape[1]):
                continue
            matrix[row, row] += 1
            if inside[v, u]:
                matrix[row, number[v, u]] = -1
            else:
                right[row] += values[v, u]
    solution = values.copy()
    solution[inside] = spsolve(matrix.tocsr(), right)
    return solution


@pytest.mark.parametrize("decay", [6.0, 1e4], ids=["screened", "plain"])
def test_membrane_equals_a_direct_solution(decay):
    """On shapes with a hole, two parts and a side on the image's border, of odd sizes."""
    alpha = disc_alpha(67, 81, 28, soft=False)
    alpha[..., 30:38, 36:44] = 0
    alpha[..., :, 74:] = 1
    inside = eroded_mask(alpha, 2)
    values = 2 * smooth_noise(2, 3, 67, 81)
    ours = membrane(values, inside, alpha > 0, decay)
    for sample, channel in ((0, 0), (1, 2)):
        plane = values[sample, channel].double().numpy()
        expected = solve_directly(plane, inside[0, 0].numpy(), 1 / decay**2)
        known = alpha[0, 0].numpy() > 0
        assert np.abs(ours[sample, channel].numpy() - expected)[known].max() < 1e-3
        assert np.abs(expected - plane)[known].max() > 0.2


def test_membrane_without_a_boundary_vanishes():
    everywhere = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    assert membrane(torch.rand(1, 3, 24, 24), everywhere, everywhere, 6.0).abs().max() < 1e-2


@pytest.mark.parametrize("mode", ACTIVE)
def test_a_sample_does_not_depend_on_its_neighbours(mode):
    """The neighbours are harder than the first sample, then easier: they end later, then sooner."""
    generated, foreground, alpha = pair(batch=3)
    alpha[0] = disc_alpha(radius=7)
    both = blend(generated, foreground, alpha, mode, k=0.3)
    generated[1:], foreground[1:] = 0.5, 0.5
    other = blend(generated, foreground, alpha, mode, k=0.3)
    assert torch.equal(both[0], other[0])
    alone = blend(generated[:1], foreground[:1], alpha[:1], mode, k=0.3)
    torch.testing.assert_close(both[:1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ACTIVE)
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_empty_and_full_masks_and_extreme_colours_stay_finite(mode, fill):
    black, white = torch.zeros(1, 3, 20, 28), torch.ones(1, 3, 20, 28)
    alpha = torch.full((1, 1, 20, 28), fill)
    for generated, foreground in ((black, white), (white, black)):
        blended = blend(generated, foreground, alpha, mode, k=0.0)
        assert blended.isfinite().all()
        if fill == 0:
            assert torch.equal(blended, generated)


def test_impossible_settings_are_named():
    generated, foreground, alpha = pair()
    with pytest.raises(InputError, match=r"blending k=1\.5 must be between 0"):
        blend(generated, foreground, alpha, Blend.detail, k=1.5)
    with pytest.raises(InputError, match="blending feather=-1 must be between 0 and 64"):
        blend(generated, foreground, alpha, Blend.alpha, feather=-1)
    with pytest.raises(ValueError, match=r"alpha B 1 H W, got"):
        blend(generated, foreground, alpha[..., 1:], Blend.alpha)
