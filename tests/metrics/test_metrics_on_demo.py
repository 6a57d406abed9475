"""The judge on real scenes of the demo: what a perfect generator would get, and what paste gets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anyscene.metrics.judge import ClassMeans
from anyscene.metrics.shadow import ShadowCorrelation
from anyscene.metrics.truth import encode_map, labels_of
from data_prep.demo_render import DemoScene, paint_scene, render_scene

MIRRORED = {"left": "right", "right": "left", "above": "above"}


def render(count: int, seed: int, *, held_out: bool) -> list[DemoScene]:
    generator = np.random.default_rng(seed)
    return [render_scene(generator, 64, held_out=held_out) for _ in range(count)]


def images_of(scenes: list[DemoScene]) -> Tensor:
    """Images N 3 H W in [0, 1]."""
    return torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255


def truth_of(scene: DemoScene) -> dict[str, Any]:
    plan = scene.plan
    maps = {"shadow": scene.shadow, "shadow_swapped": scene.shadow_swapped}
    encoded = {name: encode_map(torch.from_numpy(values) / 255) for name, values in maps.items()}
    return {"place": plan.place, "direction": plan.direction, "tone": plan.tone} | encoded


@pytest.fixture(scope="module")
def held_out() -> list[DemoScene]:
    return render(64, seed=1, held_out=True)


def shadows(images: Tensor, scenes: list[DemoScene]) -> dict[str, float]:
    masks = np.stack([np.any(scene.masks, axis=0) for scene in scenes])[:, None]
    metric = ShadowCorrelation()
    metric.update(images, torch.from_numpy(masks).float(), [truth_of(scene) for scene in scenes])
    return {name: float(value) for name, value in metric.compute().items()}


def test_place_and_light_of_combinations_that_train_never_had(held_out: list[DemoScene]) -> None:
    train = render(400, seed=0, held_out=False)
    means = ClassMeans.fit(images_of(train), [labels_of(truth_of(scene)) for scene in train])
    asked = [labels_of(truth_of(scene)) for scene in held_out]
    seen = means(images_of(held_out))
    for name in asked[0]._fields:
        right = [getattr(s, name) == getattr(a, name) for s, a in zip(seen, asked, strict=True)]
        assert np.mean(right) >= 0.98, name


def test_shadows_follow_the_light(held_out: list[DemoScene]) -> None:
    real = shadows(images_of(held_out), held_out)
    assert real["shadow_correlation"] > 0.93
    assert real["shadow_factual"] > 0.93
    assert real["shadow_swapped"] < 0.15
    assert real["shadow_skipped"] < 0.05
    swapped = [
        paint_scene(replace(scene.plan, direction=MIRRORED[scene.plan.direction]), 64)
        for scene in held_out
    ]
    turned = shadows(images_of(swapped), held_out)
    assert turned["shadow_swapped"] > 0.93
    assert turned["shadow_factual"] < 0.15


def test_elements_pasted_without_shadow_do_not_pass(
    held_out: list[DemoScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.demo_render.cast_shadows", lambda *_: np.zeros((64, 64)))
    pasted = [paint_scene(scene.plan, 64) for scene in held_out]
    assert abs(shadows(images_of(pasted), held_out)["shadow_correlation"]) < 0.1
