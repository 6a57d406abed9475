"""The moving average against its recursion in double precision."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers.training_utils import EMAModel
from tiny import tiny_config

from anyscene.callbacks.ema import MovingAverage
from anyscene.module import SceneModule


@pytest.fixture
def module(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path) -> SceneModule:
    return SceneModule(tiny_config(tiny_base_folder, demo_shards, tmp_path))


def weight(fim: torch.nn.Module) -> torch.Tensor:
    return fim.controlnet_mid_block.weight


def step_through(callback: MovingAverage, module: SceneModule, trainer, steps: int) -> list:
    """Change the weights `steps` times with two micro-batches a step; returns them in double."""
    history = []
    for _ in range(steps):
        with torch.no_grad():
            weight(module.trained).add_(torch.randn(weight(module.trained).shape))
        callback.on_train_batch_end(trainer, module)  # between micro-batches: no new step
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module)
        history.append(weight(module.trained).detach().double().clone())
    return history


def test_recursion_with_a_decay_that_warms_up(module):
    torch.manual_seed(0)
    callback, trainer = MovingAverage(0.55), SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    history = step_through(callback, module, trainer, 12)
    expected = history[0]
    for number, value in enumerate(history[1:], start=1):
        decay = min(0.55, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(weight(module.averaged).double(), expected, rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in module.averaged.parameters())
    assert not module.averaged.training


def test_the_average_is_that_of_diffusers_training_scripts(module):
    """Their `EMAModel`, which copies first too and warms up by the same rule."""
    torch.manual_seed(0)
    theirs = EMAModel([weight(module.trained)], decay=0.6)
    callback, trainer = MovingAverage(0.6), SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    for _ in range(15):
        step_through(callback, module, trainer, 1)
        theirs.step([weight(module.trained)])
        torch.testing.assert_close(weight(module.averaged), theirs.shadow_params[0])
    assert theirs.cur_decay_value == 0.6  # no longer warming up


def test_it_goes_on_from_its_state(module, tiny_base_folder, demo_shards, tmp_path):
    torch.manual_seed(0)
    callback, trainer = MovingAverage(0.9), SimpleNamespace(global_step=0)
    callback.setup(trainer, module, "fit")
    callback.on_train_start(trainer, module)
    step_through(callback, module, trainer, 3)

    other = SceneModule(tiny_config(tiny_base_folder, demo_shards, tmp_path))
    resumed, later = MovingAverage(0.9), SimpleNamespace(global_step=0)
    resumed.setup(later, other, "fit")
    resumed.load_state_dict(callback.state_dict())
    other.load_state_dict(module.state_dict())
    later.global_step = 3  # Lightning restores it before the training starts
    resumed.on_train_start(later, other)
    for one, own, place in ((callback, module, trainer), (resumed, other, later)):
        torch.manual_seed(1)
        step_through(one, own, place, 2)
    assert torch.equal(weight(other.averaged), weight(module.averaged))


def test_samples_are_made_with_the_average(module):
    callback, trainer = MovingAverage(0.9), SimpleNamespace(global_step=0)
    assert module.pipeline().controlnet is module.trained
    callback.setup(trainer, module, "fit")
    assert module.pipeline().controlnet is module.averaged
    assert module.pipeline(averaged=False).controlnet is module.trained
    callback.setup(trainer, module, "validate")
    assert callback.model is module.averaged
