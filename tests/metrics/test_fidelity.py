"""PSNR in the mask and layout metrics against formulas written out in numpy and counted areas."""

import math

import numpy as np
import pytest
import torch

from anyscene.metrics.fidelity import LayoutMetrics, MaskedPsnr, dilate, masked_psnr, pixels_at


def square(top: int, left: int, side: int, size: int = 64) -> torch.Tensor:
    """A mask 1 1 size size of a square."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., top : top + side, left : left + side] = 1
    return mask


def test_psnr_follows_the_formula_inside_the_mask_only() -> None:
    generator = torch.Generator().manual_seed(0)
    image, scene = torch.rand(2, 4, 3, 16, 16, generator=generator)
    alpha = torch.rand(4, 1, 16, 16, generator=generator)
    expected = []
    for one, other, mask in zip(image.numpy(), scene.numpy(), alpha.numpy()[:, 0], strict=True):
        inside = mask > 0.95
        error = np.mean((one[:, inside].astype(np.float64) - other[:, inside]) ** 2)
        expected.append(10 * np.log10(1.0**2 / error))  # as skimage.metrics with data_range=1
    metric = MaskedPsnr()
    metric.update(image, scene, alpha)
    assert metric.per_image()["psnr_in_mask"].tolist() == pytest.approx(expected, abs=1e-10)
    assert float(metric.compute()["psnr_in_mask"]) == pytest.approx(np.mean(expected), abs=1e-10)


def test_psnr_of_equal_images_is_100_and_of_an_empty_mask_missing() -> None:
    image = torch.rand(2, 3, 8, 8)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    mask[1] = False
    values = masked_psnr(image, image, mask)
    assert values[0] == pytest.approx(100)
    assert math.isnan(values[1])


def test_missing_values_do_not_count_in_the_mean() -> None:
    image, scene = torch.rand(2, 2, 3, 8, 8)
    alpha = torch.ones(2, 1, 8, 8)
    alpha[1] = 0
    metric = MaskedPsnr()
    metric.update(image, scene, alpha)
    first = metric.per_image()["psnr_in_mask"][0]
    assert metric.compute()["psnr_in_mask"] == first


def test_result_does_not_depend_on_the_batch_size() -> None:
    image, scene = torch.rand(2, 7, 3, 16, 16)
    alpha = torch.ones(7, 1, 16, 16)
    whole, parts = MaskedPsnr(), MaskedPsnr()
    whole.update(image, scene, alpha)
    for chosen in (slice(0, 1), slice(1, 4), slice(4, 7)):
        parts.update(image[chosen], scene[chosen], alpha[chosen])
    assert whole.compute()["psnr_in_mask"] == parts.compute()["psnr_in_mask"]


def test_layout_of_a_shifted_square() -> None:
    metric = LayoutMetrics()
    metric.update(square(10, 10, 8), square(10, 14, 8))  # half of it found, half 1 to 4 px beside
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(
        {"mask_iou": 32 / 96, "outside_share": 16 / 64, "growth": 32 / 64, "lost": 32 / 64}
    )


def test_layout_of_a_perfect_and_of_an_empty_segmentation() -> None:
    alpha = square(10, 10, 8)
    metric = LayoutMetrics()
    metric.update(torch.cat([alpha, alpha * 0]), torch.cat([alpha, alpha]))
    values = {name: column.tolist() for name, column in metric.per_image().items()}
    assert values == {
        "mask_iou": [1, 0],
        "outside_share": [0, 0],
        "growth": [0, 0],
        "lost": [0, 1],
    }


def test_layout_without_a_mask_is_missing() -> None:
    metric = LayoutMetrics()
    metric.update(square(10, 10, 8), square(0, 0, 0))
    assert all(math.isnan(value) for value in metric.compute().values())


def test_dilation_and_tolerances_scale_with_the_scene() -> None:
    grown = dilate(square(10, 10, 1) > 0.5, radius=2)
    assert torch.equal(grown, square(8, 8, 5) > 0.5)
    assert [pixels_at(side, 2) for side in (16, 64, 512)] == [1, 2, 16]
