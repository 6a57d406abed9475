"""Frechet distance between two sets of features, exact and fast for many and for few images."""

from dataclasses import dataclass

import torch
from torch import Tensor

WELL_CONDITIONED = 1e-8
"""Least pivot, relative to the largest, with which eigenvalues of a product keep 1e-9."""

BLOCK = 256  # rows of a triangular matrix that are multiplied together


@dataclass(frozen=True)
class Gaussian:
    """Mean D and covariance of features in float64.

    The covariance is given as D D, or by `rows` n D with covariance = rows^T rows: exact and
    small where there are fewer images than features.
    """

    mean: Tensor
    covariance: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def of_features(cls, features: Tensor) -> "Gaussian":
        """Mean and unbiased covariance of features n D, n > 1."""
        features = features.double()
        mean = features.mean(dim=0)
        rows = (features - mean) / (len(features) - 1) ** 0.5
        if len(features) <= len(mean):
            return cls(mean, rows=rows)
        return cls(mean, covariance=rows.T @ rows)

    @classmethod
    def of_sums(cls, count: Tensor, total: Tensor, outer: Tensor) -> "Gaussian":
        """From the number of images, the sum of their features D and of the outer products D D."""
        mean = total / count
        covariance = (outer - count * torch.outer(mean, mean)) / (count - 1)
        return cls(mean, covariance=covariance)

    def to(self, device: torch.device | str) -> "Gaussian":
        """The same on a device."""
        covariance, rows = (
            None if part is None else part.to(device) for part in (self.covariance, self.rows)
        )
        return Gaussian(self.mean.to(device), covariance, rows)

    def variance(self) -> Tensor:
        """The covariance's trace."""
        if self.rows is not None:
            return self.rows.square().sum()
        assert self.covariance is not None
        return self.covariance.trace()

    def root(self) -> Tensor:
        """A matrix D R whose product with its transpose is the covariance."""
        if self.rows is not None:
            return self.rows.T
        factor = self.factor()
        if factor is not None:
            return factor
        assert self.covariance is not None
        values, vectors = torch.linalg.eigh(self.covariance)
        kept = values > values.amax() * _rounding(values)
        return vectors[:, kept] * values[kept].sqrt()

    def factor(self) -> Tensor | None:
        """The Cholesky factor, D D; None for a covariance that is singular within rounding."""
        if self.covariance is None:
            return None
        factor, info = torch.linalg.cholesky_ex(self.covariance)
        if info or _pivots(factor) < _rounding(factor):
            return None
        return factor


def frechet_distance(first: Gaussian, second: Gaussian) -> Tensor:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two Gaussians; Heusel et al. 2017, eq. 6.

    With S = L L^T the trace of the root is the nuclear norm of L1^T L2, which needs neither a
    positive definite product nor an inverse; L is made of the features themselves where they are
    fewer than their numbers. Not below 0 by rounding.
    """
    means = (first.mean - second.mean).square().sum()
    distance = means + first.variance() + second.variance() - 2 * _trace_of_root(first, second)
    return distance.clamp(min=0)


def _trace_of_root(first: Gaussian, second: Gaussian) -> Tensor:
    one, other = first.factor(), second.factor()
    if one is not None and other is not None:
        if min(_pivots(one), _pivots(other)) > WELL_CONDITIONED:
            # the same as below, squared: a symmetric eigenvalue problem is faster
            squared = _lower_gram(_triangular_product(one, other))
            return torch.linalg.eigvalsh(squared, UPLO="L").clamp(min=0).sqrt().sum()
        return torch.linalg.svdvals(one.T @ other).sum()
    return torch.linalg.svdvals(first.root().T @ second.root()).sum()


def _triangular_product(one: Tensor, other: Tensor) -> Tensor:
    """one^T other of two lower triangular matrices, without their zeros: a third of the work."""
    product = torch.zeros_like(one)
    for first in range(0, len(one), BLOCK):
        rows, end = slice(first, first + BLOCK), first + BLOCK
        product[:end, :end].addmm_(one[rows, :end].T, other[rows, :end])
    return product


def _lower_gram(matrix: Tensor) -> Tensor:
    """The lower triangle of matrix matrix^T, with anything above it: half of the work."""
    gram = torch.zeros_like(matrix)
    for first in range(0, len(matrix), BLOCK):
        end = first + BLOCK
        gram[first:end, :end].addmm_(matrix[first:end], matrix[:end].T)
    return gram


def _pivots(factor: Tensor) -> float:
    """Least pivot of a Cholesky factor relative to the largest one."""
    pivots = factor.diagonal().square()
    return float(pivots.amin() / pivots.amax())


def _rounding(values: Tensor) -> float:
    """What rounding can make of a zero eigenvalue, relative to the largest one."""
    return len(values) * torch.finfo(values.dtype).eps
