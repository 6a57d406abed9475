"""Generated validation scenes: which seeds, which rows, and what is written."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import Precision
from tiny import tiny_config
from training import save_tiny_judge

from anyscene.callbacks.scenes import ValidationScenes, forget_samples, load_judge, score_batch
from anyscene.config import MetricsConfig
from anyscene.data.datamodule import SceneDataModule
from anyscene.metrics.build import build_metric_set
from anyscene.metrics.metric_set import MetricSet
from anyscene.module import SceneModule
from anyscene.sampler import sample_options, sample_scenes


@pytest.fixture(scope="module")
def module(tiny_base_folder: Path, demo_shards: Path, tmp_path_factory) -> SceneModule:
    folder = tmp_path_factory.mktemp("scenes")
    overrides = ("data.val_samples=4", "sample.grid_scenes=3", "sample.seed=100")
    return SceneModule(tiny_config(tiny_base_folder, demo_shards, folder, *overrides)).eval()


@pytest.fixture(scope="module")
def batches(module: SceneModule) -> list:
    """Two device batches of two samples."""
    loader = SceneDataModule(module.config.data, val_batch_size=2).val_dataloader()
    return [module.on_after_batch_transfer(batch, 0) for batch in loader]


def validate(callback: ValidationScenes, module: SceneModule, batches: list, monkeypatch) -> dict:
    """One validation at step 7; returns what was recorded."""
    recorded: dict = {}
    monkeypatch.setattr(module, "record", recorded.update)
    trainer = SimpleNamespace(
        global_step=7,
        world_size=1,
        is_global_zero=True,
        loggers=[],
        precision_plugin=Precision(),
    )
    callback.on_validation_epoch_start(trainer, module)
    for number, batch in enumerate(batches):
        callback.on_validation_batch_end(trainer, module, None, batch, number)
    callback.on_validation_epoch_end(trainer, module)
    return recorded


def test_samples_of_steps_that_are_done_anew_go(tmp_path):
    """At other steps than before, a report and an export would take them for this run's."""
    for step in (5, 7, 10, 100000000):
        (tmp_path / f"step-{step:08d}").mkdir()
        (tmp_path / f"step-{step:08d}" / "grid.png").touch()
    forget_samples(tmp_path, 7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000007"]


def test_figures_are_those_of_the_sampled_scenes(module, batches, tmp_path, monkeypatch):
    judge = load_judge(str(save_tiny_judge(tmp_path / "judge")))
    live = build_metric_set(MetricsConfig(), judge=judge)
    callback = ValidationScenes(tmp_path / "samples", module.config.sample, live)
    for _ in range(2):  # a second validation starts afresh
        recorded = validate(callback, module, batches, monkeypatch)
    metrics = build_metric_set(MetricsConfig(), judge=judge)
    scenes = [batch["scene"] / 2 + 0.5 for batch in batches]
    images = sample_scenes(
        module.pipeline(),
        [prompt for batch in batches for prompt in batch["prompt"]],
        [100, 101, 102, 103],
        torch.cat(scenes),
        torch.cat([batch["mask"] for batch in batches]),
        micro_batch=2,
        **sample_options(module.config.sample),
    )
    raw, blended = images.raw_images.split(2), images.images.split(2)
    for number, batch in enumerate(batches):
        metrics.update(score_batch(batch, scenes[number], raw[number], blended[number]))
    expected = metrics.figures()
    assert expected["images"] == 4
    assert {"ssim_in_mask", "psnr_in_mask_blended", "place_accuracy"} <= expected.keys()
    assert recorded.keys() == {f"val/{name}" for name in expected}
    for name, value in expected.items():
        assert recorded[f"val/{name}"] == pytest.approx(value, abs=1e-6), name
    written = json.loads((tmp_path / "samples/step-00000007/metrics.json").read_text())
    assert {f"val/{name}": value for name, value in written.items()} == recorded


def test_grid_of_the_first_scenes_in_their_order(module, batches, tmp_path, monkeypatch):
    callback = ValidationScenes(tmp_path, module.config.sample, None, tables=True)
    shown: dict = {}

    def note(columns, prompts):
        shown.update(columns=columns, prompts=prompts)
        return SimpleNamespace(save=lambda part, format: part.write_text(format))

    monkeypatch.setattr("anyscene.callbacks.scenes.sample_grid", note)
    assert validate(callback, module, batches[::-1], monkeypatch) == {}
    assert list(shown["columns"]) == ["foreground", "mask", "generated", "blended", "real"]
    first, second = batches
    assert shown["prompts"] == [*first["prompt"], second["prompt"][0]]
    scenes = torch.cat([first["scene"], second["scene"][:1]])
    torch.testing.assert_close(shown["columns"]["real"], scenes / 2 + 0.5)
    assert torch.equal(shown["columns"]["mask"][2:], second["mask"][:1])
    assert not torch.equal(shown["columns"]["generated"], shown["columns"]["blended"])
    assert (tmp_path / "step-00000007/grid.png").read_text() == "PNG"
    with np.load(tmp_path / "step-00000007/scenes.npz") as table:
        assert set(table) == {"prompt", *shown["columns"]}
        assert table["prompt"].tolist() == shown["prompts"]


def test_metrics_without_weights_are_named_once_with_the_reason(module, tmp_path, capsys):
    """Only where weights of some are given: a demo wants none of them."""
    trainer: Any = SimpleNamespace(is_global_zero=True)
    for networks, said in (([], ""), ([torch.nn.Identity()], SAID)):
        missing = {"fid": "no A", "kid": "no A", "lpips": "no B", "lpips_blended": "no B"}
        metrics = MetricSet([], networks, missing)
        ValidationScenes(tmp_path, module.config.sample, metrics).on_fit_start(trainer, module)
        assert capsys.readouterr().out == said


SAID = "not computed in validation: fid, kid (no A); lpips (no B)\n"
