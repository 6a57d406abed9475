"""The gradient before a step: its norm, its clipping, and runs that are stopped in time."""

import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Run, Workspace, assert_same_training_state, recorded_keys, refused, tensors

from anyscene.callbacks.gradients import Gradients
from anyscene.cli import main
from anyscene.config import Config, DataConfig, Precision, Strategy, TrainConfig
from anyscene.module import SceneModule
from anyscene.out_of_memory import Held, remedies


@pytest.fixture
def workspace(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path) -> Workspace:
    return Workspace.make(tiny_base_folder, demo_shards, tmp_path / "runs")


STOPPED = ("train.accumulate=2", "data.val=null", "train.checkpoint_every=2")


@pytest.fixture(scope="module")
def not_stopped(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """What the runs that are stopped shall end as. Read only."""
    folder = tmp_path_factory.mktemp("not_stopped") / "runs"
    return Workspace.make(tiny_base_folder, demo_shards, folder).train("whole", *STOPPED)


def break_steps(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], factor: float, part: str
) -> None:
    """The loss, or the gradient alone, of the second micro-batch of steps is multiplied."""
    training_step = SceneModule.training_step

    def broken(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = training_step(self, batch, batch_idx)
        if self.global_step + 1 not in steps or batch_idx % 2 == 0:
            return loss
        if part == "loss":
            return loss * factor
        loss.register_hook(lambda gradient: gradient * factor)
        return loss

    monkeypatch.setattr(SceneModule, "training_step", broken)


@pytest.mark.parametrize("part", ["loss", "gradient"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_run_that_is_not_finite_stops_before_the_step(
    part: str,
    factor: float,
    workspace: Workspace,
    not_stopped: Run,
    capsys: pytest.CaptureFixture,
):
    with pytest.MonkeyPatch.context() as patch:
        break_steps(patch, (4,), factor, part)
        with recorded_keys() as keys:
            line = refused(workspace.command("broken", *STOPPED), capsys, code=1)
    assert re.search(r"step 4 is not finite: losses \S+, \S+, gradient norm (nan|inf)", line)
    assert (str(factor) in line.split("gradient")[0]) == (part == "loss")
    assert all((key in line) for key in keys[-1])
    assert all((key in line) == (part == "gradient") for key in keys[-2])
    run = workspace.run("broken")
    assert [file.name for file in run.folder.glob("checkpoints/*.ckpt")] == ["step-00000002.ckpt"]
    assert main(workspace.command("broken", *STOPPED)) == 0  # goes on from there
    assert_same_training_state(run.state(6), not_stopped.state(6))


def test_fp16_leaves_out_steps_whose_gradient_overflows(workspace: Workspace):
    """The losses being finite, the loss was scaled too far: the scale is halved, nothing moves."""
    options = ("train.precision=fp16", "train.accumulate=2", "data.val=null", "train.steps=4")
    every = ("train.checkpoint_every=1", "train.keep_checkpoints=4")
    with pytest.MonkeyPatch.context() as patch:
        break_steps(patch, (1, 3), float("inf"), "gradient")
        run = workspace.train("over", *options, *every)
    states = [run.state(step) for step in range(1, 5)]
    scales = [state["MixedPrecision"]["scale"] for state in states]
    assert scales == [2.0**15, 2.0**15, 2.0**14, 2.0**14]
    assert run.figures("train/loss_scale") == dict(enumerate(scales, 1))
    assert not tensors(states[0]["optimizer_states"])  # Adam has not begun
    for part in ("state_dict", "optimizer_states"):
        second, third, fourth = (tensors(state[part]) for state in states[1:])
        assert equal(second, third)
        assert not equal(third, fourth)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_fp16_stops_where_the_loss_is_not_finite(
    workspace: Workspace, capsys: pytest.CaptureFixture
):
    options = ("train.precision=fp16", "train.accumulate=2", "data.val=null")
    with pytest.MonkeyPatch.context() as patch:
        break_steps(patch, (2,), float("nan"), "loss")
        line = refused(workspace.command("lost", *options), capsys, code=1)
    assert re.search(r"step 2 is not finite: losses 0\.\d+, nan, gradient norm nan", line)


def test_the_gradient_is_clipped_by_its_norm(workspace: Workspace, monkeypatch):
    seen = []
    before = Gradients.on_before_optimizer_step

    def note(self: Gradients, trainer: Any, module: SceneModule, *rest: Any) -> None:
        raw = [parameter.grad.clone() for parameter in module.trained.parameters()]
        stepped = [p for group in rest[0].param_groups for p in group["params"]]
        assert set(self.parameters) == set(stepped)  # the very objects
        before(self, trainer, module, *rest)
        clipped = [parameter.grad.clone() for parameter in module.trained.parameters()]
        seen.append((raw, clipped, self.norm))

    monkeypatch.setattr(Gradients, "on_before_optimizer_step", note)
    workspace.train("clipped", "train.clip_norm=0.001", "data.val=null", "train.steps=2")
    assert len(seen) == 2
    for raw, clipped, norm in seen:
        torch.testing.assert_close(torch.cat([g.flatten() for g in raw]).norm(), norm)
        ours = torch.cat([gradient.flatten() for gradient in clipped]).norm()
        torch.testing.assert_close(ours, torch.tensor(0.001), rtol=1e-3, atol=0)


def test_out_of_memory_names_the_batch_and_what_helps(
    workspace: Workspace, monkeypatch, capsys: pytest.CaptureFixture
):
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(SceneModule, "training_step", full)
    line = refused(workspace.command("full", "train.accumulate=2"), capsys, code=1)
    assert "not enough for a micro-batch of 2 images of 64x64" in line
    wanted = ("gradient_checkpointing=true", "precision=bf16", "accumulate=4 (micro-batches of 1)")
    places = [line.index(name) for name in (*wanted, "adamw8bit (", "ema_on_cpu=true (")]
    assert places == sorted(places)
    used = ("train.gradient_checkpointing=true", "train.precision=bf16", "train.ema_on_cpu=true")
    line = refused(workspace.command("fuller", "train.accumulate=4", *used), capsys, code=1)
    assert not any(f"{name} (" in line for name in used)
    assert "accumulate" not in line


OTHERS = ("train.optimizer=adamw8bit", "train.ema_on_cpu=true", "train.lora_rank=64")
"""What fsdp2 cannot go with."""


@pytest.mark.parametrize(
    ("values", "helping"),
    [
        ({}, {*OTHERS, "train.strategy=fsdp2"}),
        ({"strategy": Strategy.fsdp2}, set()),
        ({"channels_last": True}, {*OTHERS}),
        ({"compile": True}, {*OTHERS}),
        ({"lora_rank": 4}, {*OTHERS[:2]}),
    ],
)
def test_out_of_memory_suggests_what_the_run_may_use(values: dict[str, Any], helping: set[str]):
    train = {"devices": 2, "gradient_checkpointing": True, "precision": Precision.bf16, **values}
    config = Config(name="x", train=TrainConfig(steps=1, **train))
    assert {one.split(" (")[0] for one in remedies(config, Held(1, 1, None))} == helping


@pytest.mark.parametrize(("samples", "parts"), [(9, 3), (4, 2), (7, 7), (1, None)])
def test_out_of_memory_suggests_micro_batches_that_divide_the_batch(
    samples: int, parts: int | None
):
    data = DataConfig(batch_size=2 * samples)
    config = Config(name="x", data=data, train=TrainConfig(steps=1, accumulate=2))
    found = [one for one in remedies(config, Held(1, 1, (samples, 64, 64))) if "accumulate" in one]
    whole = [] if parts is None else [samples // parts]
    assert found == [
        f"train.accumulate={2 * samples // size} (micro-batches of {size})" for size in whole
    ]


def test_out_of_memory_suggests_no_half_precision_where_runs_are_bit_reproducible():
    config = Config(name="x", train=TrainConfig(steps=1, deterministic=True))
    assert not [one for one in remedies(config, Held(1, 1, None)) if "precision" in one]


def test_out_of_memory_while_the_embedder_is_fitted_names_one_rank_s_batch(
    workspace: Workspace, monkeypatch, capsys: pytest.CaptureFixture
):
    """Before the ranks are set up each reads all ranks' samples, but not at one time."""
    sizes: list[int] = []

    def full(_fim: Any, _base: Any, hints: Any, *_: Any, accumulate: int, **_options: Any) -> float:
        sizes.extend(len(hint) for hint in islice(hints, accumulate))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("anyscene.train.fit_embedder", full)
    options = ("train.devices=2", "fim.fit_embedder_steps=2")
    line = refused(workspace.command("fitting", *options), capsys, code=1)
    assert sizes == [2, 2]
    assert "not enough for a micro-batch of 2 images of 64x64" in line
    assert "train.strategy=fsdp2 (" in line


def test_runs_leave_what_validation_measures(workspace: Workspace):
    """The loss by part of the timesteps, and the swap probe."""
    run: Run = workspace.train("probe", "data.val_samples=4")
    names = {name for name in run.csv.read_text().replace(",", "\n").split() if "val/" in name}
    assert {"val/loss", "val/swap_ratio"} <= names
    assert any(name.startswith("val/loss_timesteps_") for name in names)
    assert run.figures("val/swap_ratio")[6] != 1
