"""KID against torchmetrics, CMMD against its formula, the bootstrap against a hand-made one."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance

from anyscene.metrics import kernel_distance
from anyscene.metrics.bootstrap import draw_counts, known_interval, percentile_interval
from anyscene.metrics.kernel_distance import CMMD, KID, cubic_kernel, mmd
from anyscene.metrics.kid import KernelDistance


def features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) + shift


class Given(nn.Module):
    """The images are their own features."""

    num_features = 8

    def forward(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance. will save all")
def test_kid_equals_torchmetrics_with_one_subset_of_all_images() -> None:
    generated, real = features(40, 8, seed=0, shift=0.3), features(40, 8, seed=1)
    theirs = KernelInceptionDistance(Given(), subsets=1, subset_size=40)
    theirs.update(generated, real=False)
    theirs.update(real, real=True)
    ours = KernelDistance(8, KID)
    for chosen in (slice(0, 3), slice(3, 40)):
        ours.update(generated[chosen], real[chosen])
    assert float(ours.compute()) / 1000 == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_kid_takes_sets_of_different_size() -> None:
    generated, real = features(9, 4, seed=0).double(), features(5, 4, seed=1).double()
    kernel = {name: cubic_kernel(*pair).numpy() for name, pair in pairs(generated, real).items()}
    expected = off_diagonal_mean(kernel["own"]) + off_diagonal_mean(kernel["real"])
    expected -= 2 * kernel["between"].mean()
    assert float(mmd(generated, real, KID)[0]) == pytest.approx(1000 * expected, abs=1e-9)


def pairs(generated: Tensor, real: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return {"own": (generated,) * 2, "real": (real,) * 2, "between": (generated, real)}


def off_diagonal_mean(matrix: np.ndarray) -> float:
    count = len(matrix)
    return (matrix.sum() - np.trace(matrix)) / (count * (count - 1))


def test_cmmd_follows_its_formula() -> None:
    generated = nn.functional.normalize(features(7, 5, seed=0, shift=1))
    real = nn.functional.normalize(features(6, 5, seed=1))

    def mean_kernel(first: Tensor, second: Tensor) -> float:
        distances = torch.cdist(first.double(), second.double()).square()
        return float(torch.exp(-distances / (2 * 10**2)).mean())

    expected = mean_kernel(generated, generated) + mean_kernel(real, real)
    expected -= 2 * mean_kernel(generated, real)
    assert float(mmd(generated, real, CMMD)[0]) == pytest.approx(1000 * expected, abs=1e-9)
    assert float(mmd(generated, generated, CMMD)[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("definition", [KID, CMMD], ids=["KID", "CMMD"])
def test_blocks_do_not_matter(definition, monkeypatch) -> None:
    generated, real = features(23, 4, seed=0), features(17, 4, seed=1)
    weights = draw_counts(23, 5, seed=0)
    whole = mmd(generated, real, definition, weights)
    monkeypatch.setattr(kernel_distance, "BLOCK", 4)
    parts = mmd(generated, real, definition, weights)
    assert float(parts[0]) == pytest.approx(float(whole[0]), abs=1e-9)
    torch.testing.assert_close(parts[1], whole[1], rtol=0, atol=1e-9)


def test_a_replicate_is_the_distance_of_the_drawn_images_without_copies_of_one_another() -> None:
    generated, real = features(6, 3, seed=0).double(), features(5, 3, seed=1).double()
    weights = torch.tensor([[2.0, 0, 1, 1, 2, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.float64)
    value, replicates = mmd(generated, real, KID, weights)
    assert float(replicates[1]) == pytest.approx(float(value), abs=1e-9)
    drawn = [0, 0, 2, 3, 4, 4]
    own = [
        float(cubic_kernel(generated[i][None], generated[j][None]))
        for i in drawn
        for j in drawn
        if i != j
    ]
    expected = np.mean(own) + off_diagonal_mean(cubic_kernel(real, real).numpy())
    expected -= 2 * float(cubic_kernel(generated[drawn], real).mean())
    assert float(replicates[0]) == pytest.approx(1000 * expected, abs=1e-9)


@pytest.mark.parametrize("definition", [KID, CMMD], ids=["KID", "CMMD"])
def test_drawing_every_image_once_gives_the_distance_itself(definition) -> None:
    """A replicate leaves out an image's pair with itself, which CMMD counts: it is shifted back."""
    generated, real = features(9, 3, seed=0), features(7, 3, seed=1)
    value, replicates = mmd(generated, real, definition, torch.ones(1, 9, dtype=torch.float64))
    assert float(replicates[0]) == pytest.approx(float(value), abs=1e-9)


@pytest.mark.parametrize("definition", [KID, CMMD], ids=["KID", "CMMD"])
def test_the_interval_covers_the_distance_of_all_images_there_could_be(definition) -> None:
    population, real = features(4000, 6, seed=0, shift=0.4), features(60, 6, seed=1)
    truth = float(mmd(population, real, KID)[0])
    if definition is CMMD:  # its bias at 60 images is part of its definition
        truth = np.mean([float(mmd(part, real, CMMD)[0]) for part in population.split(60)[:66]])
    covered = 0
    for part in population.split(60)[:60]:
        replicates = mmd(part, real, definition, draw_counts(60, 200, seed=0))[1]
        low, high = percentile_interval(replicates, level=0.9)
        covered += low < truth < high
    assert 46 <= covered <= 60


@pytest.mark.parametrize("definition", [KID, CMMD], ids=["KID", "CMMD"])
def test_small_sets_have_an_interval_or_none_but_no_nan(definition) -> None:
    """With four images a draw in 64 is of one of them alone, and has no pair."""
    real = features(9, 4, seed=1)
    for count, has in ((2, False), (3, False), (4, True), (9, True)):
        replicates = mmd(features(count, 4, 0), real, definition, draw_counts(count, 1000, 0))[1]
        found = known_interval(percentile_interval(replicates))
        assert (found is not None) == has, count
        if found is not None:
            assert found[0] < found[1]


def test_order_and_ranks_do_not_change_the_replicates() -> None:
    generated, real = features(12, 4, seed=0), features(9, 4, seed=1)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    one, other = KernelDistance(4, KID, real), KernelDistance(4, KID, real)
    one.update(generated)
    other.update(generated[order])
    first = one.with_replicates(torch.arange(12), 20)
    second = other.with_replicates(order.argsort(), 20)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_one_image_has_no_distance() -> None:
    metric = KernelDistance(4, KID)
    metric.update(features(1, 4, seed=0), features(5, 4, seed=0))
    assert metric.compute().isnan()
