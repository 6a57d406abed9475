"""Checkpoints: whole or not there, checked before use, loud about damage."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from anyscene.checkpoint import (
    AtomicCheckpointIO,
    check_checkpoint,
    checkpoints,
    last_good_checkpoint,
    read_checkpoint,
    replace_file,
    step_of,
)
from anyscene.errors import DamageError, InputError

VALUES = {"global_step": 7, "state_dict": {"a": torch.arange(5.0)}, "name": "x"}


def save(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:08d}.ckpt"
    AtomicCheckpointIO().save_checkpoint({**VALUES, "global_step": step}, path)
    return path


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "a flipped bit": (flip_a_byte, "does not have the sha256 of its record"),
    "a lost byte": (truncate, "its record"),
    "no record": (lambda path: path.with_suffix(".json").unlink(), "it was never finished"),
    "no file": (lambda path: path.unlink(), "is missing beside its record"),
}


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path / "new" / "folder", 7)
    for values in (AtomicCheckpointIO().load_checkpoint(path), read_checkpoint(path)):
        assert torch.equal(values["state_dict"]["a"], VALUES["state_dict"]["a"])
        assert (values["global_step"], values["name"]) == (7, "x")
    record = json.loads(path.with_suffix(".json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record == {"step": 7, "bytes": path.stat().st_size, "sha256": digest}
    assert step_of(path) == 7
    assert sorted(os.listdir(path.parent)) == ["step-00000007.ckpt", "step-00000007.json"]


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_before_loading(name, tmp_path):
    path = save(tmp_path, 7)
    check_checkpoint(path)
    DAMAGE[name][0](path)
    for use in (check_checkpoint, AtomicCheckpointIO().load_checkpoint):
        with pytest.raises(DamageError, match=DAMAGE[name][1]) as caught:
            use(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [name for name in DAMAGE if name != "no file"])
def test_a_damaged_newest_one_falls_back_loudly(name, tmp_path, capsys):
    older, newest = save(tmp_path, 3), save(tmp_path, 11)
    assert checkpoints(tmp_path) == [newest, older]
    assert last_good_checkpoint(tmp_path) == newest
    assert capsys.readouterr().err == ""
    DAMAGE[name][0](newest)
    assert last_good_checkpoint(tmp_path) == older
    errors = capsys.readouterr().err
    assert errors.startswith(f"WARNING: {newest}")
    assert errors.endswith("falling back to the checkpoint before\n")


def test_nothing_to_go_on_from(tmp_path):
    assert last_good_checkpoint(tmp_path / "nowhere") is None
    for step in (1, 2):
        truncate(save(tmp_path, step))
    with pytest.raises(InputError, match=r"all 2 checkpoints in .* are damaged; restore one"):
        last_good_checkpoint(tmp_path)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def crash(part: Path) -> None:
        part.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        replace_file(path, crash)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "old"


def test_the_record_is_written_last(tmp_path, monkeypatch):
    """A kill between the two leaves a checkpoint that is passed over."""
    monkeypatch.setattr("anyscene.checkpoint.write_json", lambda *_: None)
    path = save(tmp_path, 5)
    assert path.is_file()
    with pytest.raises(DamageError, match="never finished"):
        check_checkpoint(path)


def test_pickled_code_is_not_run(tmp_path):
    path = tmp_path / "step-00000001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"global_step": 1, "callback": pytest.fail}, path)
    for load in (AtomicCheckpointIO().load_checkpoint, read_checkpoint):
        with pytest.raises(Exception, match=r"(?i)weights.?only"):
            load(path)


def test_removal_takes_the_record_along(tmp_path):
    path = save(tmp_path, 7)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
