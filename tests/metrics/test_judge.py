"""The judge recognises places under lights that its images never had together."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anyscene.errors import InputError
from anyscene.metrics.judge import ClassMeans, Judge, thumbnail
from anyscene.metrics.prompt import PromptAccuracy
from anyscene.metrics.segmenter import SmallSegmenter
from anyscene.metrics.truth import Labels

PLACES = {"beach": (0.6, 0.5, 0.3), "forest": (0.2, 0.45, 0.2), "snow": (0.7, 0.7, 0.75)}
CLASSES = [
    Labels(*names)
    for names in itertools.product(PLACES, ("left", "right", "above"), ("cool", "warm"))
]


def images_of(labels: list[Labels], seed: int) -> Tensor:
    """Noisy images N 3 32 32: the place's colour, brighter on the light's side, tinted."""
    across = torch.linspace(-0.08, 0.08, 32)
    side = {"left": -across, "right": across, "above": 0.04 - across.abs()}
    tint = {"warm": 0.04, "cool": -0.04}
    rows = [
        torch.tensor(PLACES[label.place])[:, None, None]
        + side[label.direction]
        + tint[label.tone] * torch.tensor([1.0, 0.0, -1.0])[:, None, None]
        for label in labels
    ]
    images = torch.stack([row.expand(3, 32, 32) for row in rows])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + 0.05 * noise).clamp(0, 1)


def test_thumbnail_is_the_mean_of_each_cell() -> None:
    images = torch.rand(2, 3, 32, 16)
    expected = images.reshape(2, 3, 8, 4, 8, 2).mean(dim=(3, 5)).flatten(1)
    assert torch.allclose(thumbnail(images), expected, atol=1e-6)
    assert torch.allclose(thumbnail((images * 255).byte()), expected, atol=1 / 255)


def test_it_recognises_new_images_and_combinations_that_the_fit_never_had() -> None:
    withheld = {
        Labels("beach", "left", "warm"),
        Labels("forest", "above", "cool"),
        Labels("snow", "right", "cool"),
    }
    known = [label for label in CLASSES if label not in withheld] * 10
    means = ClassMeans.fit(images_of(known, seed=0), known)
    assert means.labels == sorted(CLASSES)
    assert means(images_of(CLASSES, seed=1)) == CLASSES


def test_floats_and_bytes_are_judged_alike() -> None:
    images = images_of(CLASSES, seed=0)
    means = ClassMeans.fit((images * 255).byte(), CLASSES)
    assert torch.allclose(means.means, ClassMeans.fit(images, CLASSES).means, atol=1 / 255)


def test_prompt_accuracy_counts_each_label() -> None:
    asked = Labels("beach", "left", "warm")
    metric = PromptAccuracy()
    metric.update(
        [asked, asked._replace(tone="cool"), asked._replace(direction="right"), asked],
        [asked, asked, asked, None],
    )
    assert {name: float(value) for name, value in metric.compute().items()} == pytest.approx(
        {
            "place_accuracy": 1,
            "direction_accuracy": 2 / 3,
            "tone_accuracy": 2 / 3,
            "light_accuracy": 1 / 3,
        }
    )


def test_judge_comes_back_from_its_folder(tmp_path: Path) -> None:
    images = images_of(CLASSES, seed=0)
    record = {"noise_floor": {"mask_iou": 0.94}, "data_manifest_sha256": "ab"}
    judge = Judge(ClassMeans.fit(images, CLASSES), SmallSegmenter().eval(), record)
    judge.save_pretrained(tmp_path / "judge")
    loaded = Judge.from_pretrained(tmp_path / "judge")
    assert loaded.record == record
    assert loaded.noise_floor == {"mask_iou": 0.94}
    assert loaded.class_means(images) == judge.class_means(images)
    assert torch.equal(loaded.segmenter(images), judge.segmenter(images))
    assert not loaded.training


def test_missing_judge_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"judge\.json is missing; .*anyscene prepare base"):
        Judge.from_pretrained(tmp_path / "nothing")
