"""Elements by themselves: boxes, crops, similarity, and SSIM inside the mask."""

import math

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from anyscene.metrics.elements import (
    ElementSimilarity,
    MaskedSsim,
    element_boxes,
    element_crops,
    mask_boxes,
    masked_ssim,
)


def test_boxes_of_elements_and_of_masks() -> None:
    elements = torch.zeros(2, 1, 8, 10, dtype=torch.uint8)
    elements[0, 0, 1:3, 2:6] = 1
    elements[0, 0, 5:8, 7:10] = 3
    assert element_boxes(elements) == [[(2, 1, 6, 3), (7, 5, 10, 8)], []]
    assert mask_boxes((elements > 0).float()) == [[(2, 1, 10, 8)], []]


def test_crops_show_the_element_on_grey_in_a_square() -> None:
    image = torch.ones(1, 3, 12, 12)
    alpha = torch.zeros(1, 1, 12, 12)
    alpha[..., 2:6, 4:12] = 1
    boxes = [[(4, 2, 12, 6), (0, 0, 4, 4), (-5, 0, 0, 3)]]
    crops, owners = element_crops(image, alpha, boxes, 8)
    assert owners.tolist() == [0, 0]  # the last box has no pixel
    grey = pytest.approx(0.5, abs=0.003)
    assert crops[0, 0, :, 0].tolist() == [grey, grey, 1, 1, 1, 1, grey, grey]
    assert crops[1].flatten().tolist() == [grey] * (3 * 64)


def test_similarity_is_the_mean_of_the_elements_of_an_image() -> None:
    metric = ElementSimilarity("dino_i")
    given = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    generated = torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    metric.update(generated, given, torch.tensor([0, 0, 2]), 3)
    values = metric.per_image()["dino_i"].tolist()
    assert values == pytest.approx([0, math.nan, math.sqrt(0.5)], nan_ok=True)


def test_ssim_of_a_full_mask_is_the_plain_one() -> None:
    image, reference = torch.rand(2, 3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 1, 24, 32, dtype=torch.bool)
    found = masked_ssim(image, reference, mask)
    whole = structural_similarity_index_measure(
        image, reference, data_range=1.0, reduction="none", return_full_image=True
    )
    assert isinstance(whole, tuple)
    assert found.tolist() == pytest.approx(whole[1].mean(dim=(1, 2, 3)).tolist(), abs=1e-6)


def test_ssim_does_not_see_what_surrounds_the_elements() -> None:
    image, other = torch.rand(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    alpha = torch.zeros(1, 1, 24, 24)
    alpha[..., 4:15, 6:20] = 1
    elsewhere = torch.where(alpha > 0, image, other)
    metric = MaskedSsim("ssim_in_mask")
    metric.update(image, elsewhere, alpha)
    metric.update(image, other, alpha)
    metric.update(image, image, alpha * 0)
    same, different, empty = metric.per_image()["ssim_in_mask"].tolist()
    assert same == pytest.approx(1)
    assert different < 0.5
    assert math.isnan(empty)


def test_ssim_leaves_out_the_soft_edge_of_the_elements() -> None:
    """There the canvas is mixed: only pixels that are the element's own count."""
    image, other = torch.rand(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    alpha = torch.zeros(1, 1, 24, 24)
    alpha[..., 4:16, 4:20] = 0.94
    alpha[..., 6:14, 6:18] = 0.96
    metric = MaskedSsim("ssim_in_mask")
    metric.update(image, torch.where(alpha > 0.95, image, other), alpha)
    assert metric.per_image()["ssim_in_mask"].tolist() == pytest.approx([1])
