"""The elements of a scene by themselves: similarity of their crops, SSIM and LPIPS in the mask."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from anyscene.metrics.catalogue import Box
from anyscene.metrics.per_image import PerImageMetric
from anyscene.metrics.preprocess import pad_to_square, resize_square

GREY = 0.5  # what is put where no element is


def on_grey(images: Tensor, alpha: Tensor) -> Tensor:
    """Images B 3 H W with grey outside of alpha B 1 H W: what surrounds elements does not count."""
    return images * alpha + GREY * (1 - alpha)


def masked_ssim(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """SSIM of each image B 3 H W in [0, 1] with its reference, averaged over a bool mask B 1 H W.

    Wang et al. 2004: a Gaussian window of 11 pixels (sigma 1.5), made of pixels in the mask, with
    grey in both images elsewhere. B values float64; NaN for an empty mask.
    """
    similarity = structural_similarity_index_measure(
        on_grey(image, mask.float()),
        on_grey(reference, mask.float()),
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )[1]  # B 3 H W
    inside = similarity.double().mean(dim=1, keepdim=True) * mask
    return inside.sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))


class MaskedSsim(PerImageMetric):
    """SSIM between an image and the elements' own pixels inside alpha > 0.95."""

    def __init__(self, name: str) -> None:
        self.names = (name,)
        super().__init__()

    def update(self, image: Tensor, foreground: Tensor, alpha: Tensor) -> None:
        """image, foreground: B 3 H W in [0, 1], sides over 5. alpha: B 1 H W in [0, 1]."""
        self.keep(masked_ssim(image, foreground, alpha > 0.95))


def element_boxes(elements: Tensor) -> list[list[Box]]:
    """The box of each element of each map B 1 H W of element numbers (0: none), by number."""
    found = []
    for numbers in elements[:, 0]:
        own = [_box(numbers == n) for n in numbers.unique().tolist() if n]
        found.append([box for box in own if box is not None])
    return found


def mask_boxes(alpha: Tensor) -> list[list[Box]]:
    """The box around alpha > 0.5 of each mask B 1 H W; none for an empty one."""
    boxes = [_box(mask) for mask in (alpha > 0.5)[:, 0]]
    return [[] if box is None else [box] for box in boxes]


def _box(mask: Tensor) -> Box | None:
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def element_crops(
    images: Tensor, alpha: Tensor, boxes: list[list[Box]], side: int
) -> tuple[Tensor, Tensor]:
    """Each element on grey in a square of `side` pixels: n 3 side side, and the number n of its
    image. A box is cut at the image's edges; one that has no pixel is left out."""
    crops, owners = [images.new_empty(0, images.shape[1], side, side)], []
    for number, (image, own) in enumerate(zip(on_grey(images, alpha), boxes, strict=True)):
        for left, top, right, bottom in own:
            crop = image[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
            if crop.numel():
                crops.append(resize_square(pad_to_square(crop, GREY)[None], side))
                owners.append(number)
    return torch.cat(crops), torch.tensor(owners, dtype=torch.long, device=images.device)


class ElementSimilarity(PerImageMetric):
    """Cosine of the features of generated elements and of the given ones: mean of each image.

    As CLIP-I and DINO-I (Ruiz et al. 2023), on the element's crop with grey around the element.
    """

    def __init__(self, name: str) -> None:
        self.names = (name,)
        super().__init__()

    def update(self, generated: Tensor, given: Tensor, owners: Tensor, images: int) -> None:
        """Features n D of n elements, the images that they are in, and how many these are."""
        cosine = F.cosine_similarity(generated.double(), given.double(), dim=1)
        total, count = (
            torch.zeros(images, dtype=torch.float64, device=cosine.device) for _ in "tc"
        )
        total.index_add_(0, owners, cosine)
        count.index_add_(0, owners, torch.ones_like(cosine))
        self.keep(total / count)  # 0 / 0 is NaN


class Lpips(nn.Module):
    """LPIPS (Zhang et al. 2018, AlexNet) of the foreground on grey, through torchmetrics.

    Raises ModuleNotFoundError without torchvision, and OSError where its weights cannot be fetched.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        self.network: Any = LearnedPerceptualImagePatchSimilarity(
            "alex", reduction="none", normalize=True
        )

    def forward(self, image: Tensor, foreground: Tensor, alpha: Tensor) -> Tensor:
        """B values of images B 3 H W in [0, 1]; NaN for an empty mask."""
        values = self.network(on_grey(image, alpha), on_grey(foreground, alpha)).reshape(-1)
        self.network.reset()
        return torch.where((alpha > 0.5).flatten(1).any(dim=1), values, torch.nan)


class ForegroundLpips(PerImageMetric):
    """LPIPS of each image's foreground."""

    def __init__(self, name: str) -> None:
        self.names = (name,)
        super().__init__()

    def update(self, distances: Tensor) -> None:
        """Distances of B images."""
        self.keep(distances)
