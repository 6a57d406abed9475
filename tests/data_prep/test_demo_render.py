"""The demo's pictures: tint and shadow obey the named light; elements do not reveal its side."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_prep.demo_places import DIRECTIONS, PLACES
from data_prep.demo_plan import TONES, ScenePlan, plan_scene
from data_prep.demo_render import DemoScene, paint_scene, render_scene
from data_prep.demo_sprites import CATEGORIES

SIZE = 64


def scenes(number: int, **given: Any) -> list[DemoScene]:
    return [render_scene(np.random.default_rng(seed), SIZE, **given) for seed in range(number)]


def foreground(scene: DemoScene) -> np.ndarray:
    """What is visible of any element, size size bool."""
    return np.logical_or.reduce(scene.masks)


@pytest.mark.parametrize("direction", ["left", "right"])
def test_shadows_lie_on_the_side_away_from_the_light(direction: str) -> None:
    sign = {"left": 1, "right": -1}[direction]
    columns = (np.arange(SIZE) + 0.5) / SIZE
    for scene in scenes(30, direction=direction, count=1):
        (element,) = scene.plan.elements
        reach = min(element.centre, 1 - element.centre)  # as far on both sides
        near = np.abs(columns - element.centre) <= reach
        away = (columns - element.centre) * sign > 0
        lit_side = scene.shadow[:, near & ~away].sum()
        dark_side = scene.shadow[:, near & away].sum()
        assert dark_side > 1.5 * lit_side


def test_shadow_from_above_is_symmetric_and_equals_its_swap() -> None:
    for scene in scenes(10, direction="above", count=1):
        (element,) = scene.plan.elements
        weight = scene.shadow.sum(axis=0, dtype=np.float64)
        centroid = (weight * (np.arange(SIZE) + 0.5)).sum() / weight.sum() / SIZE
        assert centroid == pytest.approx(element.centre, abs=0.03)
        assert np.array_equal(scene.shadow, scene.shadow_swapped)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_shadow_touches_the_foot_of_its_element(direction: str) -> None:
    for scene in scenes(15, direction=direction, count=1):
        rows, columns = np.nonzero(scene.masks[0])
        foot = columns[rows == rows.max()]
        below = scene.shadow[rows.max() + 1 : rows.max() + 3, foot].max(axis=0)
        assert below.min() > 0.1 * 255
        assert below.mean() > 0.4 * 255


def test_shadow_is_never_on_top_of_elements_nor_in_the_sky() -> None:
    for scene in scenes(30):
        opaque = foreground(scene)
        assert scene.shadow[opaque].max() <= 127  # half-covered pixels at the rim
        assert scene.shadow[opaque].mean() < 0.05 * 255
        assert scene.shadow[: int(scene.plan.horizon * SIZE)].max() == 0


def test_shadow_map_says_how_much_the_ground_darkens() -> None:
    for seed in range(8):
        plan = plan_scene(np.random.default_rng(seed), direction="left", tone="cool", count=1)
        scene = paint_scene(plan, SIZE)
        empty = paint_scene(replace(plan, elements=()), SIZE)
        ground = ~foreground(scene) & (scene.shadow > 0.9 * scene.shadow.max())
        ratio = scene.image[ground].astype(float).sum() / empty.image[ground].sum()
        strength = PLACES[plan.place].shadow_strength
        assert ratio == pytest.approx(1 - strength * scene.shadow[ground].mean() / 255, abs=0.03)


def test_swapped_shadow_is_that_of_the_other_side() -> None:
    for scene in scenes(15, direction="left"):
        other = paint_scene(replace(scene.plan, direction="right"), SIZE)
        assert np.array_equal(scene.shadow_swapped, other.shadow)
        assert np.array_equal(scene.shadow, other.shadow_swapped)
        assert np.abs(scene.shadow.astype(int) - scene.shadow_swapped).max() > 64


@pytest.mark.parametrize("place", PLACES)
def test_elements_do_not_reveal_the_direction_of_the_light(place: str) -> None:
    plan = plan_scene(np.random.default_rng(5), place=place, direction="left")
    left, right, above = (
        paint_scene(replace(plan, direction=direction), SIZE) for direction in DIRECTIONS
    )
    inside = _inner(foreground(left)) & ~_rims(plan)
    assert inside.sum() > 30
    for other in (right, above):
        differs = (left.image != other.image).any(axis=-1)
        assert differs[inside].mean() < 0.01  # a hole as small as a pixel has no mask of its own
        assert differs.mean() > 0.2


def _inner(mask: np.ndarray) -> np.ndarray:
    inner = mask.copy()
    for axis in (0, 1):
        for step in (1, -1):
            inner &= np.roll(mask, step, axis)
    return inner


def _rims(plan: ScenePlan) -> np.ndarray:
    """Pixels at the rim of any single element, where the background may shine through."""
    singles = [paint_scene(replace(plan, elements=(one,)), SIZE).masks[0] for one in plan.elements]
    return np.logical_or.reduce([mask & ~_inner(mask) for mask in singles])


@pytest.mark.parametrize("place", PLACES)
def test_tone_multiplies_elements_by_its_gains(place: str) -> None:
    plan = plan_scene(np.random.default_rng(1), place=place, tone="warm")
    warm, cool = (paint_scene(replace(plan, tone=tone), SIZE) for tone in TONES)
    for mask in warm.masks:
        bright = mask[..., None] & (warm.image < 250) & (cool.image < 250)
        for channel in range(3):
            kept = bright[..., channel]
            ratio = (
                warm.image[kept, channel].astype(float).sum()
                / cool.image[kept, channel].astype(float).sum()
            )
            expected = TONES["warm"][channel] / TONES["cool"][channel]
            assert ratio == pytest.approx(expected, rel=0.03)


def test_place_gives_elements_its_ambient_colour() -> None:
    plan = plan_scene(np.random.default_rng(2), place="beach", count=1)
    day, night = paint_scene(plan, SIZE), paint_scene(replace(plan, place="city"), SIZE)
    mask = _inner(day.masks[0])
    ratio = night.image[mask].astype(float).sum(axis=0) / day.image[mask].sum(axis=0)
    assert ratio[2] > ratio[0]
    assert ratio.max() < 0.85


@pytest.mark.parametrize("place", PLACES)
def test_light_is_seen_on_its_side_of_the_place(place: str) -> None:
    plan = plan_scene(np.random.default_rng(4), place=place, direction="left")
    left, right = (
        paint_scene(replace(plan, direction=direction, elements=()), SIZE).image.astype(float)
        for direction in ("left", "right")
    )
    half = SIZE // 2
    assert left[:, :half].mean() > 1.1 * right[:, :half].mean()
    assert right[:, half:].mean() > 1.1 * left[:, half:].mean()


def test_elements_are_large_visible_and_inside() -> None:
    areas, counts = [], set()
    for scene in scenes(60):
        counts.add(len(scene.plan.elements))
        areas += [mask.mean() for mask in scene.masks]
        assert min(scene.visible_shares) >= 0.6
        for element in scene.plan.elements:
            assert 0 < element.left < element.right < 1
            assert element.base - element.height > 0
            assert scene.plan.horizon + 0.19 < element.base < 1
            assert 0.18 < element.height < 0.5
    assert counts == {1, 2, 3}
    assert min(areas) >= 0.02


def test_nearer_elements_are_larger_on_average() -> None:
    plans = [plan_scene(np.random.default_rng(seed)) for seed in range(200)]
    elements = [element for plan in plans for element in plan.elements]
    scale = [element.height / CATEGORIES[element.category].height for element in elements]
    assert np.corrcoef([element.base for element in elements], scale)[0, 1] > 0.6


def test_masks_are_disjoint() -> None:
    for scene in scenes(20, count=3):
        assert np.sum(scene.masks, axis=0).max() == 1


def test_plan_looks_alike_at_every_size() -> None:
    plan = plan_scene(np.random.default_rng(9), count=2)
    small, large = paint_scene(plan, 64), paint_scene(plan, 256)
    shrunk = large.image.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.image).mean() < 4
