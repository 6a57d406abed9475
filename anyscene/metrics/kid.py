"""KID and CMMD as a torchmetrics class: a kernel's distance of features, gathered over ranks."""

import math

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from anyscene.metrics.bootstrap import draw_counts
from anyscene.metrics.kernel_distance import Discrepancy, mmd
from anyscene.metrics.per_image import GatheredMetric

SIDES = ("generated", "real")


class KernelDistance(GatheredMetric):
    """Maximum mean discrepancy between the features of generated and of real images.

    `KID` with Inception's features (Binkowski et al. 2018), `CMMD` with CLIP's (Jayasumana et al.
    2024), both times 1000. Keeps all features, as float32: 245 MB for 30,000 of Inception's.

    Args:
        width: numbers of an image, D.
        definition: `kernel_distance.KID` or `CMMD`.
        reference: features m D of the real side, where it is known from before.
    """

    row_dtype = torch.float32

    def __init__(
        self, width: int, definition: Discrepancy, reference: Tensor | None = None
    ) -> None:
        super().__init__()
        self.width = width
        self.definition = definition
        self.reference = reference
        for side in SIDES if reference is None else SIDES[:1]:
            self.add_state(f"{side}_rows", [], "cat")

    def update(self, generated: Tensor, real: Tensor | None = None) -> None:
        """Features B D of generated and of real images; their numbers may differ."""
        for side, features in zip(SIDES, (generated, real), strict=True):
            if features is not None:
                rows = features.detach().to(self.device, torch.float32)
                getattr(self, f"{side}_rows").append(rows.flatten())

    def rows(self, side: str = "generated") -> Tensor:
        """Features N D of a side, on this rank."""
        if side == "real" and self.reference is not None:
            return self.reference.to(self.device)
        rows = getattr(self, f"{side}_rows")
        if isinstance(rows, list) and not rows:
            return torch.empty(0, self.width, device=self.device)
        return dim_zero_cat(rows).reshape(-1, self.width)

    def compute(self) -> Tensor:
        """The distance, float64; NaN with fewer than two images on a side."""
        return self._distance(self.rows(), self.rows("real"), None)[0]

    def with_replicates(
        self, order: Tensor, resamples: int, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The distance and bootstrap replicates of it, over generated images. A collective.

        `order` N sorts the images of all ranks. At equal N, seed and order two methods' replicates
        draw the same images: their differences are a paired bootstrap.
        """
        with self.sync_context():
            generated, real = self.rows(), self.rows("real")
        return self._distance(
            generated[order.to(generated.device)],
            real,
            draw_counts(len(order), resamples, seed).to(self.device),
        )

    def _distance(
        self, generated: Tensor, real: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if min(len(generated), len(real)) < 2:
            return torch.full((), math.nan, dtype=torch.float64), torch.empty(0)
        return mmd(generated, real, self.definition, weights)
