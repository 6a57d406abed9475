"""Frechet distance between two sets of features, and a metric for sets of a few hundred images."""

import torch
from torch import Tensor
from torchmetrics import Metric

SIDES = ("generated", "real")


def frechet_distance(
    mean_first: Tensor, covariance_first: Tensor, mean_second: Tensor, covariance_second: Tensor
) -> Tensor:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians, float64, D and D D.

    Heusel et al. 2017, equation 6. With S = L L^T the trace of the root is the nuclear norm of
    L1^T L2. That needs neither a positive definite product nor an inverse, so it also holds for
    covariances of fewer images than features; directions without variance are left out.
    """
    first, second = _root(covariance_first), _root(covariance_second)
    overlap = torch.linalg.svdvals(first.T @ second).sum()
    means = (mean_first - mean_second).square().sum()
    return means + covariance_first.trace() + covariance_second.trace() - 2 * overlap


def _root(covariance: Tensor) -> Tensor:
    """L, D R with R the rank, so that L L^T is the covariance."""
    values, vectors = torch.linalg.eigh(covariance.double())
    kept = values > values.amax() * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()


class SmallSampleFid(Metric):
    """Frechet distance between the features of generated and of real images: `fid_small`.

    With a small network's features and few images it is biased upwards (the more, the fewer images)
    and is comparable with nothing but itself at the same number of images: in particular with no
    published FID. Sums are float64, so the result depends on no batch size and no split over ranks.
    """

    full_state_update = False

    def __init__(self, feature_count: int) -> None:
        super().__init__()
        self.set_dtype(torch.float64)
        for side in SIDES:
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.float64), "sum")
            self.add_state(f"{side}_sum", torch.zeros(feature_count, dtype=torch.float64), "sum")
            outer = torch.zeros(feature_count, feature_count, dtype=torch.float64)
            self.add_state(f"{side}_outer", outer, "sum")

    def update(self, generated: Tensor, real: Tensor) -> None:
        """Features B D of generated and of real images; their numbers may differ."""
        for side, features in zip(SIDES, (generated, real), strict=True):
            features = features.to(self.device, torch.float64)
            self._add(f"{side}_count", torch.tensor(float(len(features))))
            self._add(f"{side}_sum", features.sum(dim=0))
            self._add(f"{side}_outer", features.T @ features)

    def _add(self, name: str, value: Tensor) -> None:
        setattr(self, name, getattr(self, name) + value)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        count, total, outer = (
            getattr(self, f"{side}_{name}") for name in ("count", "sum", "outer")
        )
        mean = total / count
        return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)

    def compute(self) -> Tensor:
        """The distance; NaN with fewer than two images on a side."""
        generated, real = self._moments("generated"), self._moments("real")
        if not all(covariance.isfinite().all() for _, covariance in (generated, real)):
            return torch.full((), torch.nan, dtype=torch.float64)
        return frechet_distance(*generated, *real).clamp(min=0)  # not below by rounding
