"""What blending must not leave behind: a seam around the elements, and a shift of their colour."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anyscene.compositing.blending import eroded_mask
from anyscene.metrics.colour import srgb_to_lab
from anyscene.metrics.per_image import PerImageMetric

SEAM_PIXELS = 2
"""Half-width of the strip along the mask's outline that has the seam: feathers are narrower."""

AROUND_PIXELS = 8
"""How far from the outline the strip's neighbourhood goes."""

CORE_PIXELS = 2
"""Erosion of the mask in which colours are compared, beyond the feather."""

STEP_FLOOR = 0.2
"""Smallest step (in units of CIELAB) that a neighbourhood is taken to have: flat regions of 8-bit
images have less, and a ratio to it would say nothing."""


def seam(image: Tensor, alpha: Tensor) -> Tensor:
    """How much steeper an image is along the mask's outline than beside it, in stops: B float64.

    log2 of the mean CIELAB step between neighbouring pixels within SEAM_PIXELS of the outline of
    alpha > 0.5, over the same beside it, up to AROUND_PIXELS from it on both sides. Elements have
    outlines in real scenes, too: read it beside its value on those, or on the scene before
    blending. NaN without an outline. image: B 3 H W in [0, 1]; alpha: B 1 H W in [0, 1].
    """
    mask = (alpha > 0.5).float()
    strip, around = _near_outline(mask, SEAM_PIXELS), _near_outline(mask, AROUND_PIXELS)
    beside = around & ~strip
    lab = srgb_to_lab(image).double()
    along, aside = (_mean_step(lab, region).clamp(min=STEP_FLOOR) for region in (strip, beside))
    return torch.log2(along / aside)


def _mean_step(lab: Tensor, region: Tensor) -> Tensor:
    """Mean CIELAB distance of neighbouring pixels that both lie in a region: B, NaN for none."""
    total, count = lab.new_zeros(len(lab)), lab.new_zeros(len(lab))
    for dim in (-1, -2):
        step = lab.diff(dim=dim).square().sum(dim=1, keepdim=True).sqrt()
        both = _both_ends(region, dim)
        total = total + (step * both).sum(dim=(1, 2, 3))
        count = count + both.sum(dim=(1, 2, 3))
    return total / count


def _near_outline(mask: Tensor, radius: int) -> Tensor:
    """Pixels within `radius` of the border between a mask's 0 and 1, B 1 H W, bool."""
    size = 2 * radius + 1
    grown = F.max_pool2d(mask, size, stride=1, padding=radius)
    shrunk = -F.max_pool2d(-mask, size, stride=1, padding=radius)
    return grown > shrunk


def _both_ends(region: Tensor, dim: int) -> Tensor:
    length = region.shape[dim]
    return region.narrow(dim, 0, length - 1) & region.narrow(dim, 1, length - 1)


def colour_shift(image: Tensor, reference: Tensor, alpha: Tensor) -> Tensor:
    """Distance of the mean colours of two images in the eroded mask, in CIELAB: B float64.

    The CIE 1976 difference of the means over `eroded_mask(alpha, CORE_PIXELS)`; about 2 can just
    be seen. NaN where the eroded mask is empty. Images: B 3 H W in [0, 1].
    """
    core = eroded_mask(alpha, CORE_PIXELS)
    count = core.sum(dim=(1, 2, 3)).double()
    difference = (srgb_to_lab(image) - srgb_to_lab(reference)).double()
    mean = (difference * core).sum(dim=(2, 3)) / count[:, None]
    return mean.square().sum(dim=1).sqrt()


class SeamMetrics(PerImageMetric):
    """`seam` of images, and their elements' `colour_shift` from a reference."""

    names = ("seam", "colour_shift")

    def update(self, image: Tensor, reference: Tensor, alpha: Tensor) -> None:
        """image, reference: B 3 H W in [0, 1]. alpha: B 1 H W in [0, 1]."""
        self.keep(seam(image, alpha), colour_shift(image, reference, alpha))
