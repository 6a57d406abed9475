"""CIELAB, the colours in which equal distances look about equally far."""

import torch
from torch import Tensor

from anyscene.compositing.hint import srgb_to_linear

SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
WHITE_D65 = (0.950456, 1.0, 1.088754)
LINEAR_BELOW = (6 / 29) ** 3


def srgb_to_lab(srgb: Tensor) -> Tensor:
    """L* in [0, 100], a*, b* of sRGB values in [0, 1], both B 3 H W (CIE 15:2004, section 8.2.1).

    White point D65; the matrix of IEC 61966-2-1.
    """
    matrix = torch.tensor(SRGB_TO_XYZ, dtype=srgb.dtype, device=srgb.device)
    xyz = torch.einsum("ij,bjhw->bihw", matrix, srgb_to_linear(srgb))
    share = xyz / srgb.new_tensor(WHITE_D65)[None, :, None, None]
    root = share.clamp(min=LINEAR_BELOW) ** (1 / 3)
    curve = torch.where(share > LINEAR_BELOW, root, share * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = curve.unbind(dim=1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
