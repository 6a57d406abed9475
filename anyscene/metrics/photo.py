"""What can be said of elements in photos, whose light and place no judge knows."""

from typing import Any

import torch
from torch import Tensor

from anyscene.metrics.boundary import BoundaryF
from anyscene.metrics.fidelity import LayoutMetrics
from anyscene.metrics.seam import SeamMetrics
from anyscene.metrics.segmenter import Segmenter


class PhotoMetrics:
    """`LayoutMetrics` and `BoundaryF` by a segmenter, and `SeamMetrics`, which need none.

    It is asked as `SceneMetrics`, one value an image.
    """

    def __init__(self, segmenter: Segmenter | None = None) -> None:
        self.segmenter = segmenter
        self.seam = SeamMetrics()
        self.shapes = (LayoutMetrics(), BoundaryF()) if segmenter is not None else ()

    @torch.no_grad()
    def update(
        self,
        generated: Tensor,
        blended: Tensor,
        scene: Tensor,
        alpha: Tensor,
        truths: Any,  # noqa: ARG002
    ) -> None:
        """Add images B 3 H W in [0, 1] with alpha B 1 H W; see `SceneMetrics.update`."""
        self.seam.update(blended.cpu(), scene.cpu(), alpha.cpu())
        if self.segmenter is None:
            return
        found = self.segmenter(generated, alpha).cpu()
        for metric in self.shapes:
            metric.update(found, alpha.cpu())

    def per_image(self) -> dict[str, list[float]]:
        """The value of each image by name, in the order of the updates."""
        found = [metric.per_image() for metric in (self.seam, *self.shapes)]
        return {name: values.tolist() for own in found for name, values in own.items()}

    def reset(self) -> None:
        """Forget all images."""
        for metric in (self.seam, *self.shapes):
            metric.reset()
