"""The demo must learn: fails where the FIM, the prompt, the mask or the average is disconnected."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_demo

from anyscene.callbacks.ema import MovingAverage
from anyscene.cli import main
from anyscene.compositing.hint import make_hint
from anyscene.models.text import TextEncoders
from anyscene.module import SceneModule

ROOT = Path(__file__).resolve().parents[1]
SEEDS = [int(seed) for seed in os.environ.get("LEARNING_SEEDS", "0").split(",")]
STEPS = 120
LEAST_PSNR, LEAST_IOU, LEAST_PLACE = 15.0, 0.6, 0.9

Figures = dict[str, float]


@pytest.fixture(scope="module")
def learning_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_demo(tmp_path_factory.mktemp("learning"), scenes=400, val_scenes=24) / "shards"


def learn(
    shards: Path, runs: Path, seed: int, monkeypatch: pytest.MonkeyPatch, steps: int = STEPS
) -> Figures:
    """Train the demo's FIM for a fixed number of steps; its figures on held-out scenes."""
    monkeypatch.chdir(ROOT)
    overrides = [
        f"runs_dir={runs}",
        f"data.train={shards / 'train'}",
        f"data.val={shards / 'val'}",
        f"train.seed={seed}",
        f"train.steps={steps}",
        f"train.validate_every={steps}",
        f"train.checkpoint_every={steps}",
        "train.ema_decay=0.98",
        "fim.fit_embedder_steps=40",
        "fim.embedder_channels=[16,32,64]",
        "data.val_samples=24",
        "sample.steps=8",
        "log.logger=none",
        "log.progress_bar=false",
    ]
    torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
    assert main(["train", "configs/train/demo.yaml", *overrides]) == 0
    return json.loads((runs / f"demo/samples/step-{steps:08d}/metrics.json").read_text())


def has_learnt(figures: Figures) -> bool:
    return (
        figures["psnr_in_mask"] >= LEAST_PSNR
        and figures["mask_iou"] >= LEAST_IOU
        and figures["place_accuracy"] >= LEAST_PLACE
        and figures["light_accuracy"] >= LEAST_PLACE
    )


def silent_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = TextEncoders.encode
    monkeypatch.setattr(
        TextEncoders, "encode", lambda self, prompts: encode(self, [""] * len(prompts))
    )


def hints_without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = SceneModule.sample_losses

    def without_mask(self: SceneModule, batch: Any, seed: int) -> torch.Tensor:
        blank = make_hint(batch["scene"] / 2 + 0.5, torch.zeros_like(batch["mask"]))
        return losses(self, {**batch, "hint": blank}, seed)

    monkeypatch.setattr(SceneModule, "sample_losses", without_mask)


def no_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyscene.pipeline.controls", lambda *_: (None, None))


def average_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MovingAverage, "update", lambda _: None)


DISCONNECTED = {
    "fim": no_residuals,
    "prompt": silent_prompts,
    "mask": hints_without_mask,
    "ema": average_that_stands_still,
}
STEPS_OF = {"fim": 2, "ema": 2}
"""What is sampled without residuals, or with the first weights, does not depend on training."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_learning_reaches_its_figures_in_fixed_steps(
    learning_shards: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = learn(learning_shards, tmp_path, seed, monkeypatch)
    assert has_learnt(figures), figures


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("part", DISCONNECTED)
def test_learning_fails_when_a_part_is_disconnected(
    learning_shards: Path, tmp_path: Path, part: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    DISCONNECTED[part](monkeypatch)
    figures = learn(learning_shards, tmp_path, seed, monkeypatch, STEPS_OF.get(part, STEPS))
    print(part, seed, {name: round(value, 3) for name, value in figures.items()})
    assert not has_learnt(figures), figures
