"""Checkpoints that a thread copies and writes while training goes on."""

import errno
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.checkpoint import (
    AtomicCheckpointIO,
    last_good_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from anyscene.errors import DamageError
from anyscene.preemption import MARKER
from anyscene.snapshot import Snapshot


def test_training_goes_on_while_a_copy_is_made_and_written(tmp_path, monkeypatch):
    """What changes once the copy is there, or at once in its structure, is not in the file."""
    begun, go_on = Event(), Event()

    def slow(checkpoint: dict, path: Path) -> None:
        begun.set()
        assert go_on.wait(60)
        write_checkpoint(checkpoint, path)

    monkeypatch.setattr("anyscene.checkpoint.write_checkpoint", slow)
    io = AtomicCheckpointIO(keep=3)
    weights = torch.zeros(3)
    state = {"global_step": 1, "state_dict": OrderedDict(a=weights), "loops": [{"b": weights}]}
    path = tmp_path / "step-00000001.ckpt"
    io.save_checkpoint(state, path)
    state["loops"][0]["b"] = state["state_dict"]["a"] = None
    io.wait_for_copy()
    weights += 1
    assert begun.wait(60)
    assert not path.exists()
    go_on.set()
    io.finish()
    values = read_checkpoint(path)
    assert values["state_dict"]["a"].tolist() == values["loops"][0]["b"].tolist() == [0, 0, 0]
    assert isinstance(values["state_dict"], OrderedDict)


def test_weights_are_not_changed_before_they_are_copied(tmp_path, monkeypatch):
    """Whatever becomes of the copy, training goes on after it."""
    go_on, told = Event(), []

    def slow(_: torch.Tensor) -> torch.Tensor:
        assert go_on.wait(60)
        told.append("copied")
        raise RuntimeError("no memory")

    monkeypatch.setattr("anyscene.snapshot.copy_to_memory", slow)
    io = AtomicCheckpointIO(keep=3)
    callback = Checkpoints(tmp_path, io, every=1, start_step=0)
    callback.on_before_optimizer_step(None, None, None)
    io.save_checkpoint({"global_step": 1, "a": torch.zeros(1)}, tmp_path / "step-00000001.ckpt")
    with ThreadPoolExecutor() as pool:
        step = pool.submit(callback.on_before_optimizer_step, None, None, None)
        step.add_done_callback(lambda _: told.append("changed"))
        time.sleep(0.05)
        assert told == []
        go_on.set()
    assert told == ["copied", "changed"]
    with pytest.raises(DamageError, match="no memory"):
        io.finish()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_copy_on_a_gpu_is_of_what_it_was_told_to_compute_before():
    weights = torch.zeros(1 << 20, device="cuda")
    torch.cuda._sleep(1 << 30)
    weights += 1
    snapshot = Snapshot({"a": weights})
    torch.cuda._sleep(1 << 30)  # what comes after: not waited for
    with ThreadPoolExecutor() as pool:
        copy = pool.submit(snapshot.in_memory).result()["a"]
    assert not torch.cuda.current_stream().query()
    assert copy.device.type == "cpu"
    assert copy.eq(1).all()


def test_only_the_newest_stay_once_the_new_one_is_there(tmp_path):
    io = AtomicCheckpointIO(keep=2)
    for step in (1, 2, 3, 4):
        io.save_checkpoint({"global_step": step}, tmp_path / f"step-{step:08d}.ckpt")
    io.finish()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-0000000{n}.{kind}" for n in (3, 4) for kind in ("ckpt", "json")]


def test_a_full_disk_costs_a_checkpoint_not_the_run(tmp_path, monkeypatch, capsys):
    io = AtomicCheckpointIO(keep=2)
    first, second = (tmp_path / f"step-0000000{n}.ckpt" for n in (1, 2))
    io.save_checkpoint({"global_step": 1}, first)
    io.finish()
    with monkeypatch.context() as patch:
        patch.setattr("anyscene.checkpoint.torch.save", fail_with_a_full_disk)
        io.save_checkpoint({"global_step": 2}, second)
        with pytest.raises(DamageError, match=r"No space left on device.*the same command goes on"):
            io.finish()
    warning = capsys.readouterr().err
    assert warning.startswith(f"WARNING: {second} could not be written")
    with monkeypatch.context() as patch:  # for the record alone there is no room
        patch.setattr("anyscene.checkpoint.write_json", fail_with_a_full_disk)
        io.save_checkpoint({"global_step": 2}, second)
        io.teardown()
    assert last_good_checkpoint(tmp_path) == first
    assert len(os.listdir(tmp_path)) == 2
    io.save_checkpoint({"global_step": 2}, second)
    io.finish()
    assert last_good_checkpoint(tmp_path) == second


@pytest.mark.parametrize("error", [MemoryError(), ValueError("no such thing")])
def test_whatever_keeps_a_checkpoint_from_being_written_is_told(error, tmp_path, monkeypatch):
    """The run does not end as if it had saved."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("anyscene.checkpoint.torch.save", fail)
    io = AtomicCheckpointIO(keep=2)
    io.save_checkpoint({"global_step": 1}, tmp_path / "step-00000001.ckpt")
    with pytest.raises(DamageError, match=r"not be written \((MemoryError|no such thing)\); make"):
        io.finish()


def test_each_checkpoint_makes_a_death_the_first_again(tmp_path, monkeypatch):
    """One that could not be written does not."""
    marker = tmp_path / "requeue-7"
    marker.write_text("3\n")
    monkeypatch.setenv(MARKER, str(marker))
    io = AtomicCheckpointIO(keep=2)
    with monkeypatch.context() as patch:
        patch.setattr("anyscene.checkpoint.torch.save", fail_with_a_full_disk)
        io.save_checkpoint({"global_step": 1}, tmp_path / "step-00000001.ckpt")
        io.teardown()
    assert marker.read_text() == "3\n"
    io.save_checkpoint({"global_step": 2}, tmp_path / "step-00000002.ckpt")
    io.finish()
    assert marker.read_text() == "1\n"


def test_a_killed_removal_leaves_nothing_for_good(tmp_path):
    """The record goes first; the file, perhaps of 20 GB, went never."""
    io = AtomicCheckpointIO(keep=2)
    for step in range(1, 5):
        io.save_checkpoint({"global_step": step}, tmp_path / f"step-{step:08d}.ckpt")
        io.finish()
        if step == 2:
            (tmp_path / "step-00000001.json").unlink()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-0000000{n}.{kind}" for n in (3, 4) for kind in ("ckpt", "json")]


def test_an_old_one_that_cannot_be_removed_costs_a_line(tmp_path, monkeypatch, capsys):
    io = AtomicCheckpointIO(keep=2)
    paths = [tmp_path / f"step-{step:08d}.ckpt" for step in range(1, 5)]
    with monkeypatch.context() as patch:
        patch.setattr("anyscene.checkpoint.remove_checkpoint", fail_with_a_full_disk)
        for path in paths[:3]:
            io.save_checkpoint({"global_step": int(path.stem[5:])}, path)
        io.finish()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("WARNING: [Errno 28] No space left on device: old checkpoints stay")
    io.save_checkpoint({"global_step": 4}, paths[3])
    io.finish()
    assert sorted(tmp_path.glob("*.ckpt")) == paths[2:]


def fail_with_a_full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
