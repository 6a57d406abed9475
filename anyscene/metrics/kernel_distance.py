"""Maximum mean discrepancy between two sets of features, in blocks, with a bootstrap.

Gretton et al. 2012. `kid` is the unbiased estimate with KID's cubic kernel, over all pairs of
images instead of random subsets: the same quantity, without the subsets' noise. `cmmd` is the
biased one with a Gaussian kernel, as published.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1024  # rows and columns of a kernel matrix held at once
Kernel = Callable[[Tensor, Tensor], Tensor]


def cubic_kernel(first: Tensor, second: Tensor) -> Tensor:
    """(x y / D + 1)^3 of rows n D and m D: n m. Binkowski et al. 2018."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def gaussian_kernel(first: Tensor, second: Tensor) -> Tensor:
    """exp(-|x - y|^2 / 200) of rows n D and m D: n m; Jayasumana et al. 2024, sigma = 10."""
    squares = first.square().sum(1)[:, None] + second.square().sum(1)
    return torch.exp((2 * first @ second.T - squares) / 200)


@dataclass(frozen=True)
class Discrepancy:
    """A definition: its kernel, whether an image's pair with itself counts, and a factor."""

    kernel: Kernel
    self_pairs: bool
    scale: float


KID = Discrepancy(cubic_kernel, self_pairs=False, scale=1000)
CMMD = Discrepancy(gaussian_kernel, self_pairs=True, scale=1000)


def mmd(
    generated: Tensor,
    real: Tensor,
    definition: Discrepancy,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The distance of features n D from m D, times the scale, and its B bootstrap replicates.

    `weights` B n says how often each generated image is drawn in each replicate; the real images
    stay, for they are the same for every method. A replicate leaves out the pairs of an image with
    itself (a drawn copy is not another image: counting it would bias the replicate upwards) and is
    shifted to the estimate's own definition. All in float64.
    """
    kernel = definition.kernel
    total, diagonal, drawn = _sums(generated, kernel, weights)
    real_total, real_diagonal, _ = _sums(real, kernel, None)
    between = _mean_to_each(generated, real, kernel)
    different = _mean_of_pairs(total, diagonal, len(generated), False)
    own = _mean_of_pairs(total, diagonal, len(generated), definition.self_pairs)
    others = _mean_of_pairs(real_total, real_diagonal, len(real), definition.self_pairs)
    value = own + others - 2 * between.mean()
    if weights is None:
        return definition.scale * value, between.new_empty(0)
    count = weights.sum(dim=1)
    pairs = count.square() - weights.square().sum(dim=1)
    replicates = drawn / pairs + (own - different) + others - 2 * (weights @ between) / count
    return definition.scale * value, definition.scale * replicates


def _sums(
    features: Tensor, kernel: Kernel, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of a kernel matrix, of its diagonal, and for each of B weightings the weighted sum of its
    off-diagonal part."""
    total, diagonal = (torch.zeros((), dtype=torch.float64, device=features.device) for _ in "td")
    drawn = total.new_zeros(0 if weights is None else len(weights))
    for first in range(0, len(features), BLOCK):
        rows = slice(first, first + BLOCK)
        for second in range(first, len(features), BLOCK):
            columns = slice(second, second + BLOCK)
            block = kernel(features[rows].double(), features[columns].double())
            both = 1 if first == second else 2  # the matrix is symmetric
            total += both * block.sum()
            if first == second:
                diagonal += block.trace()
            if weights is not None:
                part = weights[:, rows]
                drawn += both * ((part @ block) * weights[:, columns]).sum(dim=1)
                if first == second:
                    drawn -= part.square() @ block.diagonal()
    return total, diagonal, drawn


def _mean_to_each(features: Tensor, others: Tensor, kernel: Kernel) -> Tensor:
    """For each of the features n D its mean kernel with the other ones m D."""
    means = []
    for part in features.split(BLOCK):
        sums = [kernel(part.double(), block.double()).sum(dim=1) for block in others.split(BLOCK)]
        means.append(torch.stack(sums).sum(dim=0) / len(others))
    return torch.cat(means)


def _mean_of_pairs(total: Tensor, diagonal: Tensor, count: int, self_pairs: bool) -> Tensor:
    if self_pairs:
        return total / count**2
    return (total - diagonal) / (count * (count - 1))
