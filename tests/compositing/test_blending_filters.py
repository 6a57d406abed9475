"""The low-pass filters of blending against scipy: how wide they are, and where they act."""

import numpy as np
import torch
from scipy import ndimage
from scipy.special import erf

from anyscene.compositing.blending import LIGHT_FLOOR, brighten, multiband, relight
from anyscene.compositing.hint import srgb_to_linear

SIDE = 128
FLAT = torch.full((1, 3, SIDE, SIDE + 64), 0.4)


def smooth(seed: int) -> torch.Tensor:
    coarse = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(seed)) * 0.3 + 0.4
    return torch.nn.functional.interpolate(coarse, FLAT.shape[-2:], mode="bicubic").clamp(0, 1)


def test_exchanged_light_is_what_a_gaussian_of_a_32nd_of_the_short_side_leaves():
    """Far from the border: the quotient of the low frequencies, with their widths by hand."""
    generated, foreground = smooth(1), smooth(2)
    alpha = torch.ones(1, 1, *FLAT.shape[-2:])
    low = [
        ndimage.gaussian_filter(
            srgb_to_linear(image)[0].double().numpy(), sigma=(0, 4, 4), truncate=3.0
        )
        for image in (generated, foreground)
    ]
    stops = np.log2((low[0] + LIGHT_FLOOR) / (low[1] + LIGHT_FLOOR))
    expected = brighten(foreground, torch.from_numpy(stops).float()[None])
    inner = (..., slice(16, -16), slice(16, -16))
    result = relight(generated, foreground, alpha)
    torch.testing.assert_close(result[inner], expected[inner], atol=1e-4, rtol=0)
    assert (result - foreground).abs().max() > 0.05


def test_light_alone_is_faded_over_the_widest_band():
    """Two flat images at a straight edge: no band but the light has anything. The widest sigma, at
    a short side of 128, is 4 px; its transition, 2 Phi(x / 8) - 1, is the upper half of one twice
    as wide."""
    foreground, generated = FLAT, brighten(FLAT, torch.ones_like(FLAT))
    alpha = torch.zeros(1, 1, *FLAT.shape[-2:])
    alpha[..., 96:] = 1
    result = multiband(generated, foreground, alpha)[0, 0, SIDE // 2, 96:]
    distance = torch.arange(96) + 0.5
    own_light = torch.from_numpy(erf(distance.numpy() / (8 * np.sqrt(2)))).float()
    expected = brighten(FLAT[..., 96:], (1 - own_light).expand_as(FLAT[..., 96:]))[0, 0, 0]
    torch.testing.assert_close(result, expected, atol=2e-3, rtol=0)
    assert result[0] > result[16] > result[40]
