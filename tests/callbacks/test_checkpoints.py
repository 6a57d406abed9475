"""When checkpoints are written, and which stay."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.checkpoint import AtomicCheckpointIO


def trainer_of(rank: int = 0) -> SimpleNamespace:
    """As much of a trainer as the callback sees; every rank takes part in saving."""
    io = AtomicCheckpointIO()
    trainer = SimpleNamespace(global_step=0, is_global_zero=rank == 0, saved=[])
    trainer.strategy = SimpleNamespace(checkpoint_io=io)

    def save(path: Path, weights_only: bool) -> None:
        assert not weights_only
        trainer.saved.append(trainer.global_step)
        if rank == 0:
            io.save_checkpoint({"global_step": trainer.global_step}, path)

    trainer.save_checkpoint = save
    return trainer


def run(callback: Checkpoints, trainer: SimpleNamespace, steps: int, accumulate: int = 1) -> None:
    callback.on_train_start(trainer, None)
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
    run(Checkpoints(tmp_path, every=3, keep=9), trainer, steps, accumulate)
    assert trainer.saved == saved


def test_only_the_newest_stay(tmp_path):
    run(Checkpoints(tmp_path, every=2, keep=2), trainer_of(), 9)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-0000000{n}.{kind}" for n in (8, 9) for kind in ("ckpt", "json")]


def test_a_resumed_run_does_not_save_where_it_began(tmp_path):
    trainer = trainer_of()
    trainer.global_step = 6
    run(Checkpoints(tmp_path, every=3, keep=2), trainer, 1)
    assert trainer.saved == [7]


def test_other_ranks_take_part_and_remove_nothing(tmp_path):
    run(Checkpoints(tmp_path, every=1, keep=5), trainer_of(0), 4)
    other = trainer_of(1)
    run(Checkpoints(tmp_path, every=1, keep=2), other, 4)
    assert other.saved == [1, 2, 3, 4]
    assert len(list(tmp_path.glob("*.ckpt"))) == 4
