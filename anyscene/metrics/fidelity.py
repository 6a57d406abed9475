"""Do the elements keep their look (PSNR in the mask) and their place and shape (layout)?"""

import torch
import torch.nn.functional as F
from torch import Tensor

from anyscene.metrics.per_image import PerImageMetric

REFERENCE_SIDE = 64  # px; distances in pixels are given for this short side and scale with it
PSNR_CEILING = 100.0  # dB, the value of equal images
OUTSIDE_TOLERANCE = 2  # px at the reference side


def pixels_at(short_side: int, pixels: int) -> int:
    """A distance given in pixels of a 64 px scene, in pixels of a scene of this short side."""
    return max(1, round(pixels * short_side / REFERENCE_SIDE))


def dilate(mask: Tensor, radius: int) -> Tensor:
    """A bool mask B 1 H W grown by a square of `radius` pixels to each side."""
    return F.max_pool2d(mask.float(), 2 * radius + 1, stride=1, padding=radius) > 0.5


def masked_psnr(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB of each image B 3 H W in [0, 1] within a bool mask B 1 H W; B values float64.

    10 log10(1 / MSE), with MSE the mean squared difference over the masked pixels and three
    channels; at most 100 dB (equal images). NaN where the mask is empty.
    """
    squared = (image.double() - reference.double()).square().mean(dim=1, keepdim=True)
    count = mask.sum(dim=(1, 2, 3))
    error = (squared * mask).sum(dim=(1, 2, 3)) / count  # 0 / 0 is NaN
    return -10 * error.clamp_min(10 ** (-PSNR_CEILING / 10)).log10()


class MaskedPsnr(PerImageMetric):
    """PSNR between an image and its reference scene inside alpha > 0.95: mean of the images' dB."""

    def __init__(self, name: str = "psnr_in_mask") -> None:
        self.names = (name,)
        super().__init__()

    def update(self, image: Tensor, scene: Tensor, alpha: Tensor) -> None:
        """image, scene: B 3 H W in [0, 1]. alpha: B 1 H W in [0, 1]."""
        self.keep(masked_psnr(image, scene, alpha > 0.95))


class LayoutMetrics(PerImageMetric):
    """Where a segmenter finds objects against where they were put, as shares of areas.

    Found is a probability > 0.5, the mask alpha > 0.5. `mask_iou`: intersection / union.
    `outside_share`: found farther than 2 px (of a 64 px scene) from the mask / mask. `growth`:
    found outside the mask / mask. `lost`: mask not found / mask. Read them beside its
    figures on real scenes, the segmenter's noise floor.
    """

    names = ("mask_iou", "outside_share", "growth", "lost")

    def update(self, probability: Tensor, alpha: Tensor) -> None:
        """probability of foreground and alpha: B 1 H W in [0, 1]. An empty mask gives NaN."""
        found, mask = probability > 0.5, alpha > 0.5
        tolerance = pixels_at(min(alpha.shape[-2:]), OUTSIDE_TOLERANCE)

        def area(region: Tensor) -> Tensor:
            return region.sum(dim=(1, 2, 3)).double()

        size = torch.where(area(mask) > 0, area(mask), torch.nan)
        outside = found & ~dilate(mask, tolerance)
        self.keep(
            area(found & mask) / area(found | mask) * (size / size),
            area(outside) / size,
            area(found & ~mask) / size,
            area(mask & ~found) / size,
        )
