"""The hint: what the Foreground Injection Module sees of a composited foreground."""

import math

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

HINT_VERSION = 1
"""Raised whenever `make_hint` changes what it returns; an export records it."""

HINT_CHANNELS = 5
"""Red, green, blue, alpha, edge band."""

BACKGROUND_GREY = 0.5
"""The colour, sRGB in [0, 1], behind the foreground in the hint."""

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Luminance of linear red, green and blue (ITU-R BT.709, the primaries of sRGB)."""

WARM_COOL = (1.0, 0.0, -1.0)
GREEN_MAGENTA = (-0.5, 1.0, -0.5)
"""Directions of a tint, as stops of red, green and blue."""


def make_hint(rgb: Tensor, alpha: Tensor, canvas: Tensor | float = BACKGROUND_GREY) -> Tensor:
    """The hint of composited foregrounds, B 5 H W in [0, 1]: RGB on grey, alpha, edge band.

    `rgb` is B 3 H W in [0, 1], sRGB, not premultiplied; `alpha` is B 1 H W in [0, 1], 1 foreground.
    The edge band is 1 within max(1, short side // 128) pixels of the border of alpha > 0.5; the
    image's own border is no edge. `canvas` is another colour than grey, B 3 1 1, in training alone.
    Raises ValueError for other shapes.
    """
    _check_shapes(rgb, alpha)
    height, width = alpha.shape[-2:]
    radius = max(1, min(height, width) // 128)
    mask = (alpha > 0.5).to(rgb.dtype)
    edge = dilate(mask, radius) - erode(mask, radius)
    on_canvas = rgb * alpha + canvas * (1 - alpha)
    return torch.cat([on_canvas, alpha, edge], dim=1)  # B 5 H W


def empty_hint(like: Tensor) -> Tensor:
    """The hint of no foreground at all: grey, alpha 0 and no edge, of the shape of `like`."""
    empty = torch.zeros_like(like)
    empty[:, :3] = BACKGROUND_GREY
    return empty


def random_canvas(uniforms: Tensor, half_range: float) -> Tensor:
    """Colours within +-`half_range` of grey, B 3 1 1, of `uniforms` B 3 in [0, 1)."""
    return (BACKGROUND_GREY + half_range * (2 * uniforms - 1))[:, :, None, None]


def jitter_alpha(alpha: Tensor, uniforms: Tensor, pixels: float) -> Tensor:
    """Soft alpha B 1 H W with its edge moved outward or inward, as of an imprecise cut-out.

    A sample's edge moves by d pixels, uniform in +-`pixels`; `uniforms` is B in [0, 1), 0.5 no
    change. It is the grey-scale dilation (d > 0) or erosion (d < 0) over a square of 2 |d| + 1
    pixels, which keeps the edge as soft as it is, interpolated between the two next whole numbers.
    """
    distance = (pixels * (2 * uniforms - 1)).to(alpha)[:, None, None, None]  # B 1 1 1
    moved = torch.zeros_like(alpha)
    reach = math.ceil(pixels)
    for step in range(-reach, reach + 1):
        level = dilate(alpha, step) if step > 0 else erode(alpha, -step)
        moved += (1 - (distance - step).abs()).clamp(min=0) * level
    return moved.clamp(max=1)  # the weights may add up to a little more


def jitter_foreground(
    rgb: Tensor, alpha: Tensor, uniforms: Tensor, exposure_stops: float, tint: float
) -> Tensor:
    """`rgb` with its foreground under another light: B 3 H W in [0, 1], sRGB.

    In linear light every channel is multiplied by a gain: 2 ** e for the exposure, e uniform in
    +-`exposure_stops`, and 2 ** (w WARM_COOL + g GREEN_MAGENTA) for the tint, w and g uniform in
    +-`tint` (stops), scaled so that a tint keeps the luminance of grey. The result is clamped, so
    highlights clip as in a camera. Pixels of alpha 0 and, at strengths 0, all pixels stay as they
    are, bit for bit.

    `uniforms` is B 3 in [0, 1): exposure, warm to cool, green to magenta; 0.5 is no change.
    """
    _check_shapes(rgb, alpha)
    if exposure_stops == 0 and tint == 0:
        return rgb
    exposure, warm, green = (2 * uniforms.to(rgb) - 1).split(1, dim=1)  # B 1 each
    directions = zip(WARM_COOL, GREEN_MAGENTA, strict=True)
    tint_stops = tint * torch.cat([warm * w + green * g for w, g in directions], dim=1)
    tint_gain = torch.exp2(tint_stops)  # B 3
    shares = zip(tint_gain.split(1, dim=1), LUMINANCE, strict=True)
    luminance = sum((gain * share for gain, share in shares), start=torch.zeros_like(exposure))
    gain = torch.exp2(exposure_stops * exposure) * tint_gain / luminance
    lit = linear_to_srgb(srgb_to_linear(rgb) * gain[:, :, None, None]).clamp(0, 1)
    return torch.where(alpha > 0, lit, rgb)


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """Linear light in [0, 1] of sRGB values in [0, 1] (IEC 61966-2-1:1999, section 5.2)."""
    curved = ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= 0.04045, srgb / 12.92, curved)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """sRGB values in [0, 1] of linear light in [0, 1] (IEC 61966-2-1:1999, section 5.2)."""
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved)


def dilate(mask: Tensor, radius: int) -> Tensor:
    """The maximum of B C H W over a square of 2 radius + 1 pixels; outside the image counts not."""
    columns = max_pool2d(mask, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
    return max_pool2d(columns, (1, 2 * radius + 1), stride=1, padding=(0, radius))


def erode(mask: Tensor, radius: int) -> Tensor:
    """The minimum of B C H W over a square of 2 radius + 1 pixels; outside the image counts not."""
    return -dilate(-mask, radius)


def _check_shapes(rgb: Tensor, alpha: Tensor) -> None:
    batch, _, height, width = rgb.shape
    if rgb.shape[1] != 3 or alpha.shape != (batch, 1, height, width):
        raise ValueError(
            f"rgb must be B 3 H W and alpha B 1 H W, got {tuple(rgb.shape)} and "
            f"{tuple(alpha.shape)}"
        )
