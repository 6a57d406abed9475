"""Segment Anything (Kirillov et al. 2023) as the segmenter of photos, prompted from the mask."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from transformers import SamModel, SamProcessor

from anyscene.errors import InputError

POINTS = 5  # an element
SMALLEST_PART = 0.05
"""Parts smaller than this share of the largest are not prompted for: specks of a matte."""


class SamSegmenter(nn.Module):
    """Finds the elements of an image by points inside the mask of where they were put.

    Points and no boxes: a box would keep the answer within the mask, and hide what has grown out of
    it. Every connected part of the mask is an element with POINTS points, spread over it; several
    points leave no doubt between a part and the whole, so SAM's single answer is taken.
    """

    def __init__(self, model: SamModel, processor: SamProcessor) -> None:
        super().__init__()
        self.model: Any = model
        self.processor: Any = processor

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "SamSegmenter":
        """The SAM of a folder or hub id, ready to judge. Raises `InputError` where it is none."""
        return cls(*load_sam(path)).eval()

    @torch.no_grad()
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Probability of foreground B 1 H W of an image B 3 H W in [0, 1]; mask B 1 H W in [0, 1].

        0 everywhere for an image without a mask.
        """
        found = [self._find(*pair) for pair in zip(image, mask[:, 0], strict=True)]
        return torch.stack(found)[:, None]

    def _find(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.find_each(image, mask[None])[0]

    @torch.no_grad()
    def find_each(self, image: Tensor, masks: Tensor) -> Tensor:
        """Probability n H W of each of several elements of one image 3 H W, given masks n H W.

        The image is encoded once for all. 0 everywhere for an empty mask.
        """
        parts = [element_points((mask > 0.5).cpu().numpy()) for mask in masks]
        if not any(parts):
            return torch.zeros_like(masks)
        points = [part for element in parts for part in element]
        pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        inputs = self.processor(images=pixels, input_points=[points], return_tensors="pt")
        outputs = self.model(
            pixel_values=inputs["pixel_values"].to(masks.device),
            input_points=inputs["input_points"].to(masks),
            multimask_output=False,
        )
        logits = self.processor.post_process_masks(
            outputs.pred_masks,
            inputs["original_sizes"],
            inputs["reshaped_input_sizes"],
            binarize=False,
        )[0]  # parts 1 H W
        found = torch.zeros_like(masks)
        for own, element in zip(found, logits.split([len(own) for own in parts]), strict=True):
            if len(element):
                own.copy_(element.amax(dim=(0, 1)).sigmoid())
        return found


def load_sam(path: str | Path) -> tuple[SamModel, SamProcessor]:
    """The SAM of a folder or hub id, frozen. Raises `InputError` where it is none."""
    try:
        model = SamModel.from_pretrained(path)
        processor = SamProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"--sam {str(path)!r} could not be loaded ({reason}); give a folder or hub id of a "
            "SAM, such as facebook/sam-vit-base"
        ) from None
    model.requires_grad_(False)
    return model.eval(), processor


def element_points(mask: np.ndarray) -> list[list[list[float]]]:
    """(x, y) of POINTS points in each connected part of a bool mask H W, largest parts first.

    The first is the one deepest inside. Each further one is, among those at least half as deep, the
    one farthest from the others.
    """
    labelled: Any = ndimage.label(mask, structure=np.ones((3, 3)))
    parts, count = labelled
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    kept: Sequence[int] = [part for part in order if sizes[part] >= SMALLEST_PART * sizes.max()]
    return [_spread_points(parts == part + 1) for part in kept]


def _spread_points(part: np.ndarray) -> list[list[float]]:
    padded: Any = ndimage.distance_transform_edt(np.pad(part, 1))
    depth = padded[1:-1, 1:-1]
    deep = np.argwhere(depth >= 0.5 * depth.max())  # (y, x)
    chosen = [np.array(np.unravel_index(depth.argmax(), depth.shape))]
    nearest = np.full(len(deep), np.inf)
    while len(chosen) < POINTS:
        nearest = np.minimum(nearest, np.linalg.norm(deep - chosen[-1], axis=1))
        chosen.append(deep[nearest.argmax()])
    return [[float(x), float(y)] for y, x in chosen]
