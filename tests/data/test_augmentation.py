"""Augmentation: nothing at strength 0, a function of the slot, a sample's images all together."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscene.compositing.hint import dilate, make_hint
from anyscene.config import DataConfig
from anyscene.data.augmentation import Mirror, augmented_hint, mirrored
from anyscene.data.transforms import to_device_batch
from data_prep.framing import Framing

OFF = {"exposure_stops": 0.0, "tint": 0.0}
STRONG = {"exposure_stops": 1.0, "tint": 0.5, "canvas_colour": 0.5, "mask_jitter": 2.0}
SLOTS = torch.arange(100, 106)


def config(**strengths: float) -> DataConfig:
    return DataConfig(**(OFF | strengths))


def images(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """RGB and a soft mask, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(count, 3, 24, 32, generator=generator)
    mask = torch.zeros(count, 1, 24, 32)
    mask[..., 6:18, 8:20] = 1
    return rgb, torch.nn.functional.avg_pool2d(mask, 3, 1, 1)


def host_batch(prompts: list[str]) -> dict[str, Any]:
    """Random samples of another size and crop each, one a prompt."""
    generator = torch.Generator().manual_seed(1)
    count = len(prompts)

    def pixels(channels: int) -> torch.Tensor:
        shape = (count, channels, 8, 12)
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    return {
        "key": [str(number) for number in range(count)],
        "counter": torch.arange(count),
        "data_set": torch.zeros(count).long(),
        "scene_uint8": pixels(3),
        "mask_uint8": pixels(1),
        "elements_uint8": pixels(1),
        "prompt": prompts,
        "original_size": torch.tensor([[80, 240]] * count),
        "crop_top_left": torch.stack([torch.zeros(count).long(), torch.arange(count) % 13], dim=1),
        "truth": [None] * count,
        "replaced": 0,
        "damage": [],
    }


def test_without_strength_the_hint_is_that_of_inference():
    rgb, mask = images()
    assert torch.equal(augmented_hint(rgb, mask, SLOTS, config(), 0), make_hint(rgb, mask))


@pytest.mark.parametrize("name", STRONG)
def test_each_augmentation_is_a_function_of_seed_and_slot(name):
    rgb, mask = images()
    data = config(**{name: STRONG[name]})
    whole = augmented_hint(rgb, mask, SLOTS, data, 0)
    rows = [4, 1]
    part = augmented_hint(rgb[rows], mask[rows], SLOTS[rows], data, 0)
    torch.testing.assert_close(part, whole[rows], atol=1e-6, rtol=0)
    for other in (
        augmented_hint(rgb, mask, SLOTS, data, 1),
        augmented_hint(rgb, mask, SLOTS + 1000, data, 0),
        make_hint(rgb, mask),
    ):
        assert ((whole - other).abs().amax((1, 2, 3)) > 1e-3).all()


def test_augmentations_draw_apart_from_each_other():
    """So switching one on does not change what another does."""
    rgb, mask = images()
    light = augmented_hint(rgb, mask, SLOTS, config(exposure_stops=1.0, tint=0.5), 0)
    everything = config(exposure_stops=1.0, tint=0.5, canvas_colour=0.5)
    inside = (mask == 1).expand_as(rgb)
    both = augmented_hint(rgb, mask, SLOTS, everything, 0)
    assert torch.equal(both[:, :3][inside], light[:, :3][inside])


def test_a_moved_mask_shows_the_scene_in_the_same_light_and_leaves_the_loss_alone():
    batch = host_batch(["a mug"] * 6)
    batch["mask_uint8"] = (images()[1][..., 8:16, 4:16] * 255).byte()
    strong = to_device_batch(batch, "cpu", augment=config(**STRONG), seed=0)
    plain = to_device_batch(batch, "cpu")
    assert torch.equal(strong["mask"], plain["mask"])
    assert torch.equal(strong["scene"], plain["scene"])

    rgb, mask = images()
    mask = (mask > 0.5).float()
    data = config(mask_jitter=2.0, exposure_stops=1.0)
    hint = augmented_hint(rgb, mask, SLOTS, data, 0)
    lit = augmented_hint(rgb, dilate(mask, 2), SLOTS, config(exposure_stops=1.0), 0)
    alpha = hint[:, 3:4]
    torch.testing.assert_close(hint[:, :3], lit[:, :3] * alpha + 0.5 * (1 - alpha))
    grown, shrunk = alpha.sum((1, 2, 3)) > mask[0].sum(), alpha.sum((1, 2, 3)) < mask[0].sum()
    assert grown.any()
    assert shrunk.any()
    assert alpha[dilate(mask, 2) == 0].max() == 0


def test_all_images_of_a_sample_are_mirrored_together():
    batch = host_batch(["a mug"] * 4)
    columns = torch.arange(12, dtype=torch.uint8).expand(4, 1, 8, 12)
    batch |= {"scene_uint8": columns.repeat(1, 3, 1, 1), "mask_uint8": columns + 50}
    batch["elements_uint8"] = columns + 100
    chosen = torch.tensor([True, False, False, True])
    turned = mirrored(batch, chosen)
    for name, first in (("scene_uint8", 0), ("mask_uint8", 50), ("elements_uint8", 100)):
        assert turned[name].dtype == torch.uint8
        assert turned[name][0, 0, 0].tolist() == [*range(first + 11, first - 1, -1)]
        assert torch.equal(turned[name][1:3], batch[name][1:3])
        assert torch.equal(turned[name][3], batch[name][3].flip(-1))
    twice = mirrored(turned, chosen)
    for name in ("scene_uint8", "mask_uint8", "elements_uint8", "crop_top_left"):
        assert torch.equal(twice[name], batch[name])
    assert not torch.equal(turned["crop_top_left"], batch["crop_top_left"])


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(12, 400), st.randoms(use_true_random=False))
def test_the_crop_of_a_mirrored_sample_is_that_of_the_mirrored_image(height, width, random):
    framing = Framing(height, width, (8, 12))
    image = np.arange(framing.resized[1])
    left = random.randint(0, len(image) - 12)
    batch = host_batch(["a mug"])
    batch["original_size"] = torch.tensor([[height, width]])
    batch["crop_top_left"] = torch.tensor([[3, left]])
    top, moved = mirrored(batch, torch.tensor([True]))["crop_top_left"][0].tolist()
    assert top == 3
    assert image[::-1][moved : moved + 12].tolist() == image[left : left + 12][::-1].tolist()


def mirrored_rows(before: dict[str, Any], after: dict[str, Any]) -> list[bool]:
    return [
        torch.equal(new, old.flip(-1))
        for old, new in zip(before["scene_uint8"], after["scene_uint8"], strict=True)
    ]


def test_a_share_of_the_samples_is_mirrored_by_slot():
    batch = host_batch(["a mug"] * 600)
    assert Mirror(0.0)(batch, 0) is batch
    assert all(mirrored_rows(batch, Mirror(1.0)(batch, 0)))
    rows = mirrored_rows(batch, Mirror(0.3)(batch, 0))
    assert sum(rows) / 600 == pytest.approx(0.3, abs=0.06)
    part = {
        name: value[200:] if isinstance(value, list | torch.Tensor) else value
        for name, value in batch.items()
    }
    assert mirrored_rows(part, Mirror(0.3)(part, 0)) == rows[200:]
    assert mirrored_rows(batch, Mirror(0.3)(batch, 1)) != rows


def test_a_scene_whose_prompt_names_a_side_is_never_mirrored(caplog: pytest.LogCaptureFixture):
    sided = ["light from the left", "Right of a tree", "a left-handed man", "turning clockwise"]
    free = ["a bright mug", "the cleft of a rock", "", "lightning"]
    batch = host_batch(sided + free)
    mirror = Mirror(1.0)
    assert mirrored_rows(batch, mirror(batch, 0)) == [False] * 4 + [True] * 4
    mirror(batch, 0)
    assert [record.args for record in caplog.records if record.levelno == logging.WARNING] == [
        (1.0, 1, 8),
        (1.0, 2, 8),
        (1.0, 4, 8),
        (1.0, 8, 16),
    ]
    assert "name a side; their scenes are never mirrored" in caplog.text
