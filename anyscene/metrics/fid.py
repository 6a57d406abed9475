"""FID and its like as a torchmetrics class: Frechet distance of features, summed over ranks."""

import math

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from anyscene.metrics.frechet import Gaussian, frechet_distance
from anyscene.metrics.per_image import GatheredMetric

SIDES = ("generated", "real")


class FrechetDistance(GatheredMetric):
    """Frechet distance between the features of generated and of real images.

    With Inception's features it is FID (Heusel et al. 2017), with DINOv2's FD-DINOv2 (Stein et al.
    2023). It is biased upwards, the more, the fewer images: compare it only at equal numbers, and
    do not bootstrap it (a bootstrapped FID lies far above its own point estimate).

    Sums are float64 on all ranks, so the result depends on no batch size and no split over ranks.
    The first D rows of a side are kept as they are: with no more than D images, the distance is
    made of the features themselves, which is exact where a covariance is singular.

    Args:
        width: numbers of an image, D.
        reference: the real side, where it is known from before; then no real images are taken.
    """

    def __init__(self, width: int, reference: Gaussian | None = None) -> None:
        super().__init__()
        self.width = width
        self.reference = reference
        for side in SIDES if reference is None else SIDES[:1]:
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.float64), "sum")
            self.add_state(f"{side}_sum", torch.zeros(width, dtype=torch.float64), "sum")
            self.add_state(f"{side}_outer", torch.zeros(width, width, dtype=torch.float64), "sum")
            self.add_state(f"{side}_rows", [], "cat")

    def update(self, generated: Tensor, real: Tensor | None = None) -> None:
        """Features B D of generated and of real images; their numbers may differ."""
        for side, features in zip(SIDES, (generated, real), strict=True):
            if features is not None:
                self._add(side, features.detach().to(self.device, torch.float64))

    def _add(self, side: str, features: Tensor) -> None:
        rows = getattr(self, f"{side}_rows")
        rows.append(features.flatten())  # flat: a rank without any can be gathered
        if sum(len(part) for part in rows) > self.width**2:
            self._fold(side)

    def _fold(self, side: str) -> None:
        """Add the rows to the sums. Many at once, for that is fast."""
        rows = self._rows(side)
        added = {
            "count": torch.tensor(float(len(rows)), dtype=torch.float64, device=rows.device),
            "sum": rows.sum(dim=0),
            "outer": rows.T @ rows,
        }
        for name, value in added.items():
            setattr(self, f"{side}_{name}", getattr(self, f"{side}_{name}") + value)
        setattr(self, f"{side}_rows", [])

    def _rows(self, side: str) -> Tensor:
        rows = getattr(self, f"{side}_rows")
        if isinstance(rows, list) and not rows:
            return torch.empty(0, self.width, dtype=torch.float64, device=self.device)
        return dim_zero_cat(rows).reshape(-1, self.width)

    def gaussian(self, side: str = "generated") -> Gaussian | None:
        """Mean and covariance of a side's images so far, on this rank; None of fewer than two."""
        rows, folded = self._rows(side), getattr(self, f"{side}_count")
        if len(rows) + int(folded) < 2:
            return None
        if not folded and len(rows) <= self.width:
            return Gaussian.of_features(rows)
        return Gaussian.of_sums(
            folded + len(rows),
            getattr(self, f"{side}_sum") + rows.sum(dim=0),
            getattr(self, f"{side}_outer") + rows.T @ rows,
        )

    def compute(self) -> Tensor:
        """The distance, float64; NaN with fewer than two images on a side."""
        generated = self.gaussian()
        real = self.gaussian("real") if self.reference is None else self.reference.to(self.device)
        if generated is None or real is None:
            return torch.full((), math.nan, dtype=torch.float64)
        return frechet_distance(generated, real)
