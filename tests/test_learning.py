"""The demo must learn: fails where the FIM, the prompt, the mask or the average is disconnected."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_demo

from anyscene.callbacks.ema import MovingAverage
from anyscene.callbacks.metrics_csv import HEADER
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


def learn(shards: Path, runs: Path, seed: int, steps: int = STEPS, embedder: int = 40) -> Figures:
    """Train the demo's FIM for a fixed number of steps; its figures on held-out scenes."""
    overrides = [
        f"runs_dir={runs}",
        f"data.train={shards / 'train'}",
        f"data.val={shards / 'val'}",
        f"train.seed={seed}",
        f"train.steps={steps}",
        f"train.validate_every={steps}",
        f"train.checkpoint_every={steps}",
        "train.ema_decay=0.98",
        f"fim.fit_embedder_steps={embedder}",
        "fim.embedder_channels=[16,32,64]",
        "data.val_samples=24",
        "sample.steps=8",
        "log.logger=none",
        "log.progress_bar=false",
    ]
    torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
    with contextlib.chdir(ROOT):
        assert main(["train", "configs/train/demo.yaml", *overrides]) == 0
    return json.loads((runs / f"demo/samples/step-{steps:08d}/metrics.json").read_text())


@pytest.fixture(scope="module", params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def learnt(
    learning_shards: Path, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Figures]:
    """The folder of runs in which all is connected, and its figures. Read only."""
    runs = tmp_path_factory.mktemp("learnt")
    return runs, learn(learning_shards, runs, seed)


@pytest.fixture
def validate_again(
    learning_shards: Path, learnt: tuple[Path, Figures], seed: int, tmp_path: Path
) -> Callable[[], Figures]:
    """Gives the figures of the learnt run's last checkpoint, without more training."""

    def validate() -> Figures:
        copy = Path(shutil.copytree(learnt[0], tmp_path / "again"))
        shutil.rmtree(copy / "demo/samples")
        (copy / "demo/metrics.csv").write_text(",".join(HEADER) + "\n")
        return learn(learning_shards, copy, seed)

    return validate


def shows_the_element(figures: Figures) -> bool:
    return figures["psnr_in_mask"] >= LEAST_PSNR and figures["mask_iou"] >= LEAST_IOU


def follows_the_prompt(figures: Figures) -> bool:
    return min(figures["place_accuracy"], figures["light_accuracy"]) >= LEAST_PLACE


def has_learnt(figures: Figures) -> bool:
    return shows_the_element(figures) and follows_the_prompt(figures)


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_learning_reaches_its_figures_in_fixed_steps(learnt: tuple[Path, Figures]) -> None:
    _, figures = learnt
    print(figures)
    assert has_learnt(figures), figures


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_learning_fails_without_the_mask(
    learning_shards: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints_without_mask(monkeypatch)
    figures = learn(learning_shards, tmp_path, seed)
    assert not has_learnt(figures), figures


@pytest.mark.slow
def test_learning_fails_with_an_average_that_stands_still(
    learning_shards: Path, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first weights, whose residuals are zero, stay the same after two steps or many."""
    average_that_stands_still(monkeypatch)
    figures = learn(learning_shards, tmp_path, seed, steps=2, embedder=2)
    assert not has_learnt(figures), figures


@pytest.mark.slow
def test_learning_shows_no_element_where_the_fim_is_disconnected(
    validate_again: Callable[[], Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was trained: nothing of the element reaches the image."""
    no_residuals(monkeypatch)
    figures = validate_again()
    print(figures)
    assert follows_the_prompt(figures), figures
    assert not shows_the_element(figures), figures


@pytest.mark.slow
def test_learning_follows_no_prompt_where_prompts_are_disconnected(
    validate_again: Callable[[], Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it was trained: the image cannot know the place. There are eight."""
    silent_prompts(monkeypatch)
    figures = validate_again()
    print(figures)
    assert figures["place_accuracy"] < 0.5
    assert not follows_the_prompt(figures), figures
