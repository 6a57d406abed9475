"""A signal anywhere in a run stops it between steps, and the next start makes up for it."""

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from torch import distributed
from training import assert_same_training_state, recorded_keys

from anyscene import checkpoint
from anyscene.callbacks.preemption import Preemption
from anyscene.cli import main
from anyscene.module import SceneModule
from anyscene.preemption import RunStopped, stop_requested


@contextmanager
def signal_in(place: str, step: int) -> Iterator[None]:
    """Signal this thread when a method of the module runs after `step` steps; then take it back."""
    method = getattr(SceneModule, place)

    def signalled(self: SceneModule, *arguments: Any) -> Any:
        if self.global_step == step and not stop_requested():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return method(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneModule, place, signalled)
        yield
    assert stop_requested()
    signal.sigwait({signal.SIGUSR1})


@pytest.mark.parametrize(
    ("place", "step", "stopped_at"),
    [
        ("configure_optimizers", 0, 0),
        ("training_step", 1, 2),
        ("training_step", 2, 3),  # where a checkpoint is saved anyway
        ("validation_step", 4, 4),
        ("training_step", 5, 6),  # the last step: nothing is left to stop but the validation
    ],
)
def test_a_stop_changes_nothing(place, step, stopped_at, whole, workspace, capsys):
    run, keys = whole
    name = f"stopped-{place}-{step}"
    with recorded_keys() as first, signal_in(place, step):
        stopped = workspace.train(name, workspace.judge)
    told = capsys.readouterr()
    line = f"anyscene: stopped at step {stopped_at}, as a signal asked; the same command goes on\n"
    assert (told.err, told.out) == (line, "")
    assert list(stopped.figures("val/loss")) == ([4] if step == 5 else [])
    assert stopped.checkpoint(stopped_at).exists() == (stopped_at > 0)
    with recorded_keys() as second:
        workspace.train(name, workspace.judge)
    assert first + second == keys
    assert len(first) == stopped_at
    assert_same_training_state(stopped.state(6), run.state(6))
    for figure in ("train/loss", "val/loss", "val/psnr_in_mask"):
        assert stopped.figures(figure) == run.figures(figure), figure


@pytest.fixture
def ranks() -> Iterator[Any]:
    """A process group of one rank that agrees as one of many does."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield distributed.new_group(backend="gloo")
    distributed.destroy_process_group()


@pytest.mark.parametrize(("asked_in", "stopped_at"), [(0, 0), (1, 2), (3, 4)])
def test_ranks_agree_while_they_compute(ranks, asked_in, stopped_at, monkeypatch):
    """Asked before the first step a run stops at once; asked in step n it has done one more."""
    saved = SimpleNamespace(save_last=lambda _: None)
    callback = Preemption(saved, timedelta(seconds=10))
    callback.group = ranks
    trainer = SimpleNamespace(global_step=0)
    asked = asked_in == 0
    monkeypatch.setattr("anyscene.callbacks.preemption.stop_requested", lambda: asked)

    def train() -> None:
        nonlocal asked
        for step in range(1, 9):
            callback.on_train_batch_start(trainer, None)
            callback.on_train_batch_start(trainer, None)  # a second micro-batch asks nothing
            asked = asked or step == asked_in
            trainer.global_step = step

    with pytest.raises(RunStopped) as stop:
        train()
    assert stop.value.step == stopped_at


def test_a_validation_that_was_lost_at_a_checkpoint_is_done_again(whole, workspace):
    """Killed in the validation at a step that was saved, with some of its figures written."""
    options = (workspace.judge, "train.validate_every=3")
    undisturbed = workspace.train("every-three", *options)
    assert list(undisturbed.figures("val/loss")) == [3, 6]
    killed = workspace.killed_copy(undisturbed, "killed-in-validation", 3)
    rows = killed.csv.read_text().splitlines()
    written = rows.index(next(row for row in rows if row.startswith("3,val/")))
    killed.csv.write_text("\n".join(rows[: written + 2]) + "\n")
    shutil.rmtree(killed.folder / "samples")
    workspace.train("killed-in-validation", *options)
    names = {row.split(",")[1] for row in rows} - {"name"}
    assert len(names) > 10
    measured = {"images_per_second", "data_wait_seconds", "memory_gib"}
    for name in names - {f"train/{figure}" for figure in measured}:
        assert killed.figures(name) == undisturbed.figures(name), name
    for step in (3, 6):
        assert (killed.folder / f"samples/step-0000000{step}/grid.png").exists()
    assert_same_training_state(killed.state(6), whole[0].state(6))


def test_a_disk_that_is_full_at_a_stop_ends_the_run_with_one_line(workspace, capsys, monkeypatch):
    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, signal_in("training_step", 1):
        patch.setattr(checkpoint.torch, "save", fail)
        assert main(workspace.command("full")) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("anyscene: the last checkpoint could not be written (No space left")
