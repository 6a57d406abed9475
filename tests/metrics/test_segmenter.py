"""The small segmenter learns, is deterministic, and comes back from its folder unchanged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyscene.errors import InputError
from anyscene.metrics.fidelity import LayoutMetrics
from anyscene.metrics.segmenter import SmallSegmenter, segmentation_loss, train_segmenter


def discs(count: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Images u8 N 3 H W of a red disc on noise, and masks u8 N 1 H W."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = torch.rand(count, 2, 1, 1, generator=generator) * size
    mask = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 49)[:, None]
    noise = torch.rand(count, 3, size, size, generator=generator) * 0.6
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(3, size, size)
    images = torch.where(mask, red, noise)
    return (images * 255).byte(), mask.byte() * 255


@pytest.fixture(scope="module")
def trained() -> SmallSegmenter:
    images, masks = discs(64, seed=0)
    return train_segmenter(images, masks, steps=60, batch=8, learning_rate=1e-2, seed=0)


def test_it_learns_to_find_objects_in_new_images(trained: SmallSegmenter) -> None:
    images, masks = discs(16, seed=1)
    metric = LayoutMetrics()
    metric.update(trained(images.float() / 255), masks.float() / 255)
    values = metric.compute()
    assert values["mask_iou"] > 0.9
    assert values["outside_share"] < 0.02


def test_it_is_small_and_has_probabilities_at_other_sizes(trained: SmallSegmenter) -> None:
    assert 100_000 < sum(weight.numel() for weight in trained.parameters()) < 200_000
    with torch.no_grad():
        probability = trained(torch.rand(2, 3, 24, 40))
        features = trained.features(torch.rand(2, 3, 24, 40))
    assert probability.shape == (2, 1, 24, 40)
    assert 0 <= probability.min() <= probability.max() <= 1
    assert features.shape == (2, trained.feature_count)
    with pytest.raises(ValueError, match="28x40: both sides must be multiples of 8"):
        trained(torch.rand(1, 3, 28, 40))


def test_training_is_a_function_of_its_arguments() -> None:
    images, masks = discs(8, seed=0)
    seen: list[tuple[int, float]] = []

    def train(seed: int) -> dict[str, Tensor]:
        torch.rand(1)  # the global generator must not matter
        segmenter = train_segmenter(
            images, masks, steps=3, batch=4, seed=seed, progress=lambda *step: seen.append(step)
        )
        return segmenter.state_dict()

    first, second, other = train(0), train(0), train(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert [step for step, _ in seen] == [1, 2, 3] * 3
    assert seen[:3] == seen[3:6]


def test_loss_is_cross_entropy_and_dice() -> None:
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    logits = torch.zeros(1, 1, 2, 2)  # probability 0.5 everywhere
    dice = (2 * 1 + 1) / (4 + 1)
    assert float(segmentation_loss(logits, mask)) == pytest.approx(0.6931472 + 1 - dice)
    assert float(segmentation_loss((mask - 0.5) * 100, mask)) == pytest.approx(0, abs=1e-6)


def test_folder_gives_the_same_segmenter_back(trained: SmallSegmenter, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    loaded = SmallSegmenter.from_pretrained(tmp_path)
    image = torch.rand(1, 3, 32, 32)
    assert not loaded.training
    assert torch.equal(loaded(image), trained(image))
    assert sorted(json.loads((tmp_path / "config.json").read_text())) == ["class", "widths"]


def test_missing_files_and_weights_are_named(trained: SmallSegmenter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        SmallSegmenter.from_pretrained(tmp_path)
    trained.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        SmallSegmenter.from_pretrained(tmp_path)


def test_wrong_training_tensors_are_refused() -> None:
    images, masks = discs(4, seed=0)
    with pytest.raises(ValueError, match="both uint8"):
        train_segmenter(images.float(), masks)
    with pytest.raises(ValueError, match="as many of each"):
        train_segmenter(images[:3], masks)
