"""Boundary F against distances by scipy, and on cases that can be counted."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from anyscene.metrics.boundary import BoundaryF, boundary_f, outline


def blob(seed, height=48, width=64):
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(noise, 4)
    return smooth > np.quantile(smooth, 0.6)


def by_distances(found, mask, tolerance):
    """The definition, by exact Euclidean distances to the other outline."""
    plus = ndimage.generate_binary_structure(2, 1)
    edges = [one & ~ndimage.binary_erosion(one, plus, border_value=1) for one in (found, mask)]
    radius = math.ceil(tolerance * math.hypot(*mask.shape))
    distances = [ndimage.distance_transform_edt(~edge) for edge in edges]
    precision = (distances[1][edges[0]] <= radius).mean()
    recall = (distances[0][edges[1]] <= radius).mean()
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.008, 0.03])
def test_boundary_f_equals_distances_by_scipy(tolerance):
    pairs = [(blob(seed), blob(seed + 100)) for seed in range(4)]
    found, mask = (torch.from_numpy(np.stack(side))[:, None] for side in zip(*pairs, strict=True))
    expected = [by_distances(*pair, tolerance) for pair in pairs]
    assert min(expected) > 0.05
    assert boundary_f(found, mask, tolerance).tolist() == pytest.approx(expected, abs=1e-6)


def square(top=16, side=20):
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., top : top + side, 16 : 16 + side] = True
    return mask


def test_boundary_f_of_a_shifted_square():
    """At 64 px the tolerance is one pixel: a shift by one costs nothing, by four nearly all."""
    assert boundary_f(square(), square()).item() == 1
    assert boundary_f(square(17), square()).item() == 1
    assert 0.4 < boundary_f(square(20), square()).item() < 0.6  # the upright sides still fit
    assert boundary_f(square(16, 12), square()).item() < 0.65


def test_boundary_f_without_outlines():
    nothing = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    assert boundary_f(nothing, square()).item() == 0
    assert boundary_f(square(), nothing).isnan().all()
    assert not outline(torch.ones(1, 1, 8, 8, dtype=torch.bool)).any()


def test_boundary_metric_keeps_a_value_an_image():
    metric = BoundaryF()
    metric.update(torch.cat([square(), square(20)]).float(), torch.cat([square()] * 2).float())
    values = metric.per_image()["boundary_f"].tolist()
    assert values[0] == 1 > values[1]
    assert metric.compute()["boundary_f"].item() == pytest.approx(sum(values) / 2)
