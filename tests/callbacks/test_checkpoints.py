"""When checkpoints are written, and which stay."""

import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training import assert_same_training_state

from anyscene import checkpoint, snapshot
from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.checkpoint import AtomicCheckpointIO, last_good_checkpoint
from anyscene.cli import main
from anyscene.errors import DamageError


def trainer_of() -> SimpleNamespace:
    """As much of a trainer as the callback sees."""
    trainer = SimpleNamespace(global_step=0, saved=[])

    def save(path: Path, weights_only: bool) -> None:
        assert not weights_only
        assert path.name == f"step-{trainer.global_step:08d}.ckpt"
        trainer.saved.append(trainer.global_step)

    trainer.save_checkpoint = save
    return trainer


def checkpoints_of(folder: Path, every: int, start_step: int = 0) -> Checkpoints:
    return Checkpoints(folder, AtomicCheckpointIO(keep=2), every, start_step)


def run(callback: Checkpoints, trainer: SimpleNamespace, steps: int, accumulate: int = 1) -> None:
    for _ in range(steps):
        for _ in range(accumulate - 1):
            callback.on_train_batch_end(trainer, None)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, None)
    callback.on_train_end(trainer, None)


@pytest.mark.parametrize(("steps", "saved"), [(7, [3, 6, 7]), (6, [3, 6]), (2, [2])])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_few_steps_and_at_the_end(steps, saved, accumulate, tmp_path):
    trainer = trainer_of()
    run(checkpoints_of(tmp_path, every=3), trainer, steps, accumulate)
    assert trainer.saved == saved


def test_a_resumed_run_does_not_save_where_it_began(tmp_path):
    trainer = trainer_of()
    trainer.global_step = 6
    run(checkpoints_of(tmp_path, every=3, start_step=6), trainer, 1)
    assert trainer.saved == [7]


def test_the_end_waits_for_the_disk(tmp_path):
    callback = checkpoints_of(tmp_path, every=3)
    callback.io.failure = "disk full"
    with pytest.raises(DamageError, match="disk full"):
        run(callback, trainer_of(), 4)


@pytest.mark.parametrize("fails", [1, 2])
def test_what_could_not_be_written_at_the_last_step_is_tried_again(
    fails, workspace, monkeypatch, capsys
):
    """The disk was full when the step was saved as every third is, and perhaps still is."""
    save, tried = checkpoint.torch.save, []

    def fail(*arguments: object) -> None:
        tried.append(arguments)
        if len(tried) <= fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*arguments)

    monkeypatch.setattr("anyscene.checkpoint.torch.save", fail)
    name = f"tried-again-{fails}"
    assert main(workspace.command(name, "train.steps=3", "data.val=null")) == fails - 1
    assert len(tried) == 2
    assert capsys.readouterr().err.count("WARNING: ") == fails
    found = last_good_checkpoint(workspace.run(name).folder / "checkpoints")
    assert (found is None) == (fails == 2)


def test_a_checkpoint_that_is_copied_slowly_is_of_its_own_step(whole, workspace, monkeypatch):
    """Training computes the next step meanwhile, and then waits."""
    copy, copied = snapshot.copy_to_memory, 0

    def slow(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal copied
        copied += 1
        time.sleep(0.002)
        return copy(tensor)

    monkeypatch.setattr(snapshot, "copy_to_memory", slow)
    run = workspace.train("copied-slowly", "train.steps=5", "data.val=null")
    assert copied > 200
    assert_same_training_state(run.state(3), whole[0].state(3))


def test_a_checkpoint_counts_micro_batches_of_the_present_size(tmp_path):
    def counters() -> dict:
        return {part: {"ready": 5, "completed": 4} for part in ("total", "current")}

    loop = {
        f"epoch_loop.{name}": counters() for name in ("batch_progress", "val_loop.batch_progress")
    }
    checkpoint = {"global_step": 6, "loops": {"fit_loop": loop}}
    trainer = SimpleNamespace(accumulate_grad_batches=4)
    checkpoints_of(tmp_path, every=3).on_load_checkpoint(trainer, None, checkpoint)
    for part in ("total", "current"):
        assert loop["epoch_loop.batch_progress"][part] == {"ready": 24, "completed": 24}
        assert loop["epoch_loop.val_loop.batch_progress"][part] == {"ready": 0, "completed": 0}
