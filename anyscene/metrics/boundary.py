"""Boundary F: do the elements' outlines lie where the mask's are?"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from anyscene.metrics.per_image import PerImageMetric

TOLERANCE = 0.008
"""Distance up to which outlines count as the same, as a share of the image's diagonal: that of
Perazzi et al. 2016 (DAVIS), rounded up to whole pixels as there; Csurka et al. 2013 take 0.0075."""


def outline(mask: Tensor) -> Tensor:
    """The pixels of a bool mask B 1 H W that have a neighbour, of four, outside of it.

    Where the mask meets the image's border, there is no outline.
    """
    outside = F.pad((~mask).float(), (1, 1, 1, 1))  # beyond the border nothing is outside
    across = F.max_pool2d(outside, (1, 3), stride=1)[..., 1:-1, :]
    along = F.max_pool2d(outside, (3, 1), stride=1)[..., 1:-1]
    return mask & (torch.maximum(across, along) > 0)


def near(points: Tensor, radius: int) -> Tensor:
    """The pixels at most `radius` pixels, in a straight line, from bool points B 1 H W."""
    steps = torch.arange(-radius, radius + 1, device=points.device)
    disc = (steps[:, None] ** 2 + steps[None] ** 2 <= radius**2).float()
    return F.conv2d(points.float(), disc[None, None], padding=radius) > 0.5


def boundary_f(found: Tensor, mask: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """F measure of outlines of bool masks B 1 H W, in [0, 1]: B values float64.

    2 P R / (P + R): precision P is the share of the found outline that lies near the true one,
    recall R the share of the true one near the found (Csurka et al., "What is a good evaluation
    measure for semantic segmentation?", 2013, section 3; Perazzi et al., "A benchmark dataset and
    evaluation methodology for video object segmentation", 2016, section 4.1). 0 where one of the
    outlines is missing, NaN where the true one is.
    """
    radius = math.ceil(tolerance * math.hypot(*mask.shape[-2:]))
    ours, true = outline(found), outline(mask)

    def share(points: Tensor, of: Tensor) -> Tensor:
        total = of.sum(dim=(1, 2, 3)).double()
        return (of & near(points, radius)).sum(dim=(1, 2, 3)) / total.clamp(min=1)

    precision, recall = share(true, ours), share(ours, true)
    score = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where(true.flatten(1).any(dim=1), score, torch.nan)


class BoundaryF(PerImageMetric):
    """`boundary_f` of what a segmenter finds (probability > 0.5) against the mask (alpha > 0.5)."""

    names = ("boundary_f",)

    def update(self, probability: Tensor, alpha: Tensor) -> None:
        """probability of foreground and alpha: B 1 H W in [0, 1]."""
        self.keep(boundary_f(probability > 0.5, alpha > 0.5))
