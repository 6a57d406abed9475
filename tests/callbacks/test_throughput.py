"""What is logged every few steps."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_config

from anyscene.callbacks.gradients import Gradients
from anyscene.callbacks.throughput import StepProgress, Throughput
from anyscene.config import TrainConfig
from anyscene.module import SceneModule


@pytest.fixture
def module(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path, monkeypatch) -> SceneModule:
    """A module that keeps what it is told to record."""
    module = SceneModule(tiny_config(tiny_base_folder, demo_shards, tmp_path))
    module.recorded = []
    monkeypatch.setattr(module, "record", module.recorded.append)
    return module


def trainer_at(step: int) -> SimpleNamespace:
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
    strategy = SimpleNamespace(reduce=lambda value: value)
    return SimpleNamespace(
        global_step=step, optimizers=[optimizer], strategy=strategy, is_global_zero=True
    )


def gradients(norm: torch.Tensor | float) -> Gradients:
    """As after a step."""
    callback = Gradients(TrainConfig())
    callback.norm = norm
    return callback


def test_loss_of_the_whole_batch_every_few_steps(module):
    """Lightning divides a micro-batch's loss by their number: their sum is the batch's mean."""
    callback, trainer = Throughput(8, 3, gradients(7.0)), trainer_at(4)
    callback.on_train_start(trainer, module)
    for step in range(5, 11):
        for part, loss in enumerate((step / 2, step / 4)):
            callback.on_train_batch_start()
            trainer.global_step += part
            callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(float(loss))})
    assert [figures["train/loss"] for figures in module.recorded] == [6 * 0.75, 9 * 0.75]
    assert all(figures["train/learning_rate"] == 0.5 for figures in module.recorded)


def test_the_gradient_before_clipping_and_memory(module):
    """The norm is the one that the last step was judged by."""
    callback, trainer = Throughput(8, 1, gradients(torch.tensor(7.0))), trainer_at(0)
    callback.on_train_start(trainer, module)
    callback.on_train_batch_start()
    trainer.global_step = 1
    callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)})
    (figures,) = module.recorded
    assert figures["train/gradient_norm"] == 7
    assert 0.1 < figures["train/memory_gib"] < 32
    assert "train/mfu" not in figures  # no data sheet of a CPU


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that the test sets."""
    clock = SimpleNamespace(now=100.0)
    fake = SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr("anyscene.callbacks.throughput.time", fake)
    return clock


def test_speed_and_waiting(module, clock):
    callback = Throughput(8, 2, gradients(7.0), images_at_peak=6.4)
    trainer = trainer_at(0)
    callback.on_train_start(trainer, module)
    for _ in range(2):
        clock.now += 2  # for data
        callback.on_train_batch_start()
        clock.now += 3
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)})
    (figures,) = module.recorded
    assert figures["train/data_wait_seconds"] == 2
    assert figures["train/images_per_second"] == 2 * 8 / 10
    assert figures["train/mfu"] == 0.25


def test_validation_does_not_count_as_time_of_training(module, clock):
    callback, trainer = Throughput(8, 2, gradients(7.0)), trainer_at(1)
    callback.on_train_start(trainer, module)
    clock.now += 50
    callback.on_validation_end(trainer, module)
    clock.now += 1
    callback.on_train_batch_start()
    trainer.global_step += 1
    callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)})
    assert module.recorded[0]["train/data_wait_seconds"] == 1
    assert module.recorded[0]["train/images_per_second"] == 8


def test_one_bar_over_all_steps(module, capsys):
    trainer = trainer_at(3)
    trainer.max_steps = 10
    bar = StepProgress()
    bar.on_train_start(trainer, module)
    for _ in range(7):
        bar.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.25)})  # micro-batch
        trainer.global_step += 1
        bar.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.25)})
    bar.on_train_end(trainer, module)
    assert "10/10" in capsys.readouterr().err


def test_no_bar_on_other_ranks(module, capsys):
    trainer = trainer_at(0)
    trainer.is_global_zero = False
    bar = StepProgress()
    bar.on_train_start(trainer, module)
    bar.on_train_batch_end(trainer, module, {"loss": torch.tensor(0.25)})
    bar.on_train_end(trainer, module)
    assert capsys.readouterr().err == ""
