"""The Frechet distance against a closed form and scipy, also with fewer images than features."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

from anyscene.metrics.fid import FrechetDistance
from anyscene.metrics.frechet import Gaussian, frechet_distance


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.mean(dim=0), torch.cov(features.T)


def test_closed_form_of_diagonal_covariances() -> None:
    first, second = torch.tensor([4.0, 1.0, 0.25]).double(), torch.tensor([1.0, 9.0, 0.0]).double()
    means = torch.zeros(3).double(), torch.tensor([1.0, -2.0, 0.5]).double()
    expected = means[1].square().sum() + (first.sqrt() - second.sqrt()).square().sum()
    distance = frechet_distance(Gaussian(means[0], first.diag()), Gaussian(means[1], second.diag()))
    assert float(distance) == pytest.approx(float(expected), abs=1e-12)


def test_equals_scipy_for_full_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    first = torch.randn(50, 6, generator=generator, dtype=torch.float64) @ mixing
    second = torch.randn(40, 6, generator=generator, dtype=torch.float64) + 0.3
    (mean_first, cov_first), (mean_second, cov_second) = moments(first), moments(second)
    root = linalg.sqrtm(cov_first.numpy() @ cov_second.numpy()).real
    expected = float((mean_first - mean_second).square().sum()) + np.trace(
        cov_first.numpy() + cov_second.numpy() - 2 * root
    )
    metric = FrechetDistance(6)
    metric.update(first, second)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)


def test_fewer_images_than_features() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(9, 32, generator=generator, dtype=torch.float64)
    second = torch.randn(7, 32, generator=generator, dtype=torch.float64)
    centred = [features - features.mean(dim=0) for features in (first, second)]
    overlap = torch.linalg.svdvals(centred[0] @ centred[1].T).sum() / math.sqrt(8 * 6)
    expected = (first.mean(0) - second.mean(0)).square().sum() - 2 * overlap
    expected += centred[0].square().sum() / 8 + centred[1].square().sum() / 6
    metric = FrechetDistance(32)
    metric.update(first, second)
    assert float(metric.compute()) == pytest.approx(float(expected), abs=1e-9)


def test_equal_sets_have_no_distance_and_a_shift_adds_its_square() -> None:
    features = torch.randn(10, 16, dtype=torch.float64)
    equal, shifted = FrechetDistance(16), FrechetDistance(16)
    equal.update(features, features)
    shifted.update(features + 0.5, features)
    assert float(equal.compute()) == pytest.approx(0, abs=1e-10)
    assert float(shifted.compute()) == pytest.approx(16 * 0.25, abs=1e-9)


def test_batches_do_not_matter() -> None:
    first, second = torch.rand(2, 11, 8)
    whole, parts = FrechetDistance(8), FrechetDistance(8)
    whole.update(first, second)
    for chosen in (slice(0, 2), slice(2, 3), slice(3, 11)):
        parts.update(first[chosen], second[chosen])
    assert float(whole.compute()) == pytest.approx(float(parts.compute()), abs=1e-12)


def test_one_image_has_no_distance() -> None:
    metric = FrechetDistance(4)
    metric.update(torch.rand(1, 4), torch.rand(1, 4))
    assert math.isnan(metric.compute())


def spread(count: int, width: int, seed: int, rank: int | None = None) -> torch.Tensor:
    """Features of different variances, in a subspace of `rank` dimensions."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    mixing = torch.randn(rank or width, width, **options) * torch.logspace(0, -2, width)
    return torch.randn(count, rank or width, **options) @ mixing + seed


def slow_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """The definition, through the singular values of the features' n by m product."""
    (mean_first, one), (mean_second, other) = moments(first), moments(second)
    rows = [((x - x.mean(0)) / math.sqrt(len(x) - 1)).numpy() for x in (first, second)]
    overlap = np.linalg.svd(rows[0] @ rows[1].T, compute_uv=False).sum()
    means = float((mean_first - mean_second).square().sum())
    return means + float(one.trace() + other.trace()) - 2 * overlap


@pytest.mark.parametrize(
    ("generated", "real"),
    [
        (spread(90, 24, 0), spread(80, 24, 1)),  # well conditioned: eigenvalues
        (spread(20, 24, 0), spread(24, 24, 1)),  # few images: their rows
        (spread(20, 24, 0), spread(200, 24, 1)),  # few against a covariance
        (spread(200, 24, 0, rank=9), spread(200, 24, 1)),  # dead features
        (spread(25, 24, 0), spread(26, 24, 1)),  # hardly more images than features
    ],
    ids=["many", "few", "few and many", "singular", "hardly enough"],
)
def test_each_form_equals_the_definition(generated, real) -> None:
    metric = FrechetDistance(24)
    for part in generated.split(7):
        metric.update(part)
    metric.update(real[:0], real)
    expected = slow_distance(generated, real)
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-9)
    against = FrechetDistance(24, Gaussian.of_features(real))
    against.update(generated)
    assert float(against.compute()) == pytest.approx(expected, abs=1e-9)


def test_folding_rows_into_sums_does_not_matter() -> None:
    generated, real = spread(61, 8, 0), spread(50, 8, 1)
    metric = FrechetDistance(8)
    for first in range(0, 61, 3):  # more than 8 rows are folded again and again
        metric.update(generated[first : first + 3], real[first : first + 3])
    assert int(metric.generated_count) > 40
    assert float(metric.compute()) == pytest.approx(slow_distance(generated, real), abs=1e-9)
