"""Shadow correlation against numpy, and on a synthetic scene whose answer is known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyscene.errors import InputError
from anyscene.metrics.shadow import (
    ShadowCorrelation,
    darkening,
    masked_correlation,
    shadow_region,
    without_trend,
)
from anyscene.metrics.truth import decode_map, encode_map, labels_of, swapped_truth

SIZE = 64


def box(top: int, left: int, height: int, width: int) -> Tensor:
    """A map H W with a box of ones."""
    values = torch.zeros(SIZE, SIZE)
    values[top : top + height, left : left + width] = 1
    return values


ELEMENT = box(20, 28, 16, 8)
SHADOWS = {"left": box(36, 36, 6, 12), "right": box(36, 16, 6, 12), "above": box(37, 28, 6, 8)}


def truth_of(direction: str) -> dict[str, Any]:
    """The truth of a scene with ELEMENT under light from `direction`."""
    other = {"left": "right", "right": "left"}.get(direction, direction)
    return {
        "place": "beach",
        "direction": direction,
        "tone": "warm",
        "shadow": encode_map(SHADOWS[direction]),
        "shadow_swapped": encode_map(SHADOWS[other]),
    }


def scene_with(shadow: Tensor, strength: float = 0.5) -> Tensor:
    """A scene 1 3 H W: ground brighter to the left, a dark element, a shadow."""
    ground = torch.linspace(0.9, 0.5, SIZE).expand(SIZE, SIZE)
    image = ground * (1 - strength * shadow) * (1 - ELEMENT)
    return image.expand(1, 3, SIZE, SIZE)


def measure(image: Tensor, truth: dict[str, Any] | None) -> dict[str, float]:
    metric = ShadowCorrelation()
    metric.update(image, ELEMENT[None, None], [truth])
    return {name: float(value) for name, value in metric.compute().items()}


def test_correlation_equals_numpy_within_the_region() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 5, 1, 16, 16, generator=generator)
    region = torch.rand(5, 1, 16, 16, generator=generator) > 0.5
    expected = [
        np.corrcoef(first[i][region[i]].double(), second[i][region[i]].double())[0, 1]
        for i in range(5)
    ]
    values = masked_correlation(first, second, region)
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_correlation_of_a_constant_is_zero_and_of_nothing_missing() -> None:
    region = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    region[1] = False
    values = masked_correlation(torch.ones(2, 1, 8, 8), torch.rand(2, 1, 8, 8), region)
    assert values[0] == 0
    assert math.isnan(values[1])


def test_trend_is_the_least_squares_fit_of_numpy() -> None:
    values = torch.rand(2, 1, 16, 16)
    region = torch.rand(2, 1, 16, 16) > 0.6
    rest = without_trend(values, region)
    y, x = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    basis = np.stack([np.ones_like(x), x, x**2, y], axis=-1)
    for i in range(2):
        inside = region[i, 0].numpy()
        inner = values[i, 0].numpy()[inside].astype(np.float64)
        factors = np.linalg.lstsq(basis[inside], inner, rcond=None)[0]
        expected = inner - basis[inside] @ factors
        assert np.allclose(rest[i, 0].numpy()[inside], expected, atol=1e-10)
        assert not rest[i, 0].numpy()[~inside].any()


def test_darkening_is_minus_the_logarithm_of_luma() -> None:
    image = torch.tensor([0.5, 0.25, 1.0])[None, :, None, None]
    luma = 0.299 * 0.5 + 0.587 * 0.25 + 0.114 * 1.0
    assert float(darkening(image)) == pytest.approx(-math.log(luma))
    assert float(darkening(image * 0)) == pytest.approx(-math.log(0.02))


@pytest.mark.parametrize("direction", ["left", "right", "above"])
def test_a_true_shadow_correlates_and_no_shadow_does_not(direction: str) -> None:
    truth = truth_of(direction)
    assert measure(scene_with(SHADOWS[direction]), truth)["shadow_correlation"] > 0.99
    bare = measure(scene_with(SHADOWS[direction], strength=0), truth)
    assert abs(bare["shadow_correlation"]) < 0.1  # although the ground is brighter on one side


def test_factual_and_swapped_change_places_with_the_light() -> None:
    left, right = measure(scene_with(SHADOWS["left"]), truth_of("left")), truth_of("right")
    assert left["shadow_factual"] > 0.98
    assert left["shadow_swapped"] < 0.15
    mistaken = measure(scene_with(SHADOWS["left"]), right)
    assert mistaken["shadow_factual"] == pytest.approx(left["shadow_swapped"], abs=1e-9)
    assert mistaken["shadow_swapped"] == pytest.approx(left["shadow_factual"], abs=1e-9)


def test_light_from_above_has_nothing_to_swap() -> None:
    values = measure(scene_with(SHADOWS["above"]), truth_of("above"))
    assert math.isnan(values["shadow_factual"])
    assert math.isnan(values["shadow_swapped"])


def test_scenes_without_truth_or_measurable_shadow() -> None:
    image, truth = scene_with(SHADOWS["left"]), truth_of("left")
    bare = truth | {"shadow": encode_map(torch.zeros(SIZE, SIZE))}
    metric = ShadowCorrelation()
    metric.update(
        image.expand(3, -1, -1, -1), ELEMENT.expand(3, 1, SIZE, SIZE), [None, bare, truth]
    )
    values = metric.per_image()
    assert values["shadow_correlation"].isnan().tolist() == [True, True, False]
    assert metric.compute()["shadow_skipped"] == 0.5  # the scene without truth does not count


def test_region_keeps_off_elements_and_to_the_rows_of_the_shadow() -> None:
    alpha = ELEMENT[None, None]
    region = shadow_region(SHADOWS["left"][None, None], alpha)[0, 0]
    assert not region[19:37, 27:37].any()  # the element and 1 px around it
    assert region.any(dim=1).nonzero().flatten().tolist() == list(range(36, 42))
    assert region[40, 36 - 5 : 48 + 5].all()
    assert int(region[40].sum()) == 12 + 2 * 5


def test_maps_survive_encoding_and_a_wrong_size_is_named() -> None:
    values = torch.rand(8, 8)
    assert torch.allclose(decode_map(encode_map(values)), values, atol=0.5 / 255 + 1e-6)
    with pytest.raises(InputError, match="8x8 and its scene 64x64"):
        measure(scene_with(SHADOWS["left"]), truth_of("left") | {"shadow": encode_map(values)})


@pytest.mark.parametrize("text", ["no base64!", "aGVsbG8="])
def test_a_broken_map_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="truth map is not a base64 PNG"):
        decode_map(text)


def test_swapped_truth_mirrors_direction_and_shadow() -> None:
    swapped = swapped_truth(truth_of("left"))
    assert labels_of(swapped) == ("beach", "right", "warm")
    assert swapped["shadow"] == truth_of("right")["shadow"]
    assert swapped_truth(swapped) == truth_of("left")
