"""Checkpoints: whole or not there, checked before use, loud about damage."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from anyscene.checkpoint import (
    AtomicCheckpointIO,
    check_checkpoint,
    checkpoints,
    last_good_checkpoint,
    read_checkpoint,
    remove_checkpoint,
    replace_file,
    step_of,
    write_checkpoint,
)
from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of
from anyscene.run_folder import remove_leftovers

VALUES = {"global_step": 7, "state_dict": {"a": torch.arange(5.0)}, "name": "x"}


def save(folder: Path, step: int) -> Path:
    path = folder / f"step-{step:08d}.ckpt"
    write_checkpoint({**VALUES, "global_step": step}, path)
    return path


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def write_record(path: Path, content: bytes) -> None:
    path.with_suffix(".json").write_bytes(content)


RECORDS = {  # that cannot be used, by what is said of them
    "Unterminated string": b'{"step": 7, "by',
    "Expecting value": b"",
    "can't decode": b'"\xff"',
    "no object": b"[7]",
    "no sha256": b'{"step": 7, "bytes": 9}',
    "no shares": b'{"step": 7, "bytes": 9, "sha256": "0", "shares": 2}',
}
DAMAGE = {
    "a flipped bit": (flip_a_byte, "does not have the sha256 of its record"),
    "a lost byte": (truncate, "its record"),
    "no record": (lambda path: path.with_suffix(".json").unlink(), "it was never finished"),
    "no file": (lambda path: path.unlink(), "is missing beside its record"),
    **{
        told: (
            lambda path, content=content: write_record(path, content),
            rf"has a damaged record step-\d{{8}}\.json \(.*{told}.*\)$",
        )
        for told, content in RECORDS.items()
    },
}


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path / "new" / "folder", 7)
    for values in (AtomicCheckpointIO(keep=3).load_checkpoint(path), read_checkpoint(path)):
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
    for use in (check_checkpoint, AtomicCheckpointIO(keep=3).load_checkpoint):
        with pytest.raises(DamageError, match=DAMAGE[name][1]) as caught:
            use(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


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


def test_one_that_cannot_be_read_falls_back_too(tmp_path, monkeypatch, capsys):
    """As of a bad block on a disk."""
    older, newest = save(tmp_path, 3), save(tmp_path, 11)

    def read(path: Path) -> str:
        if path == newest:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return sha256_of(path)

    monkeypatch.setattr("anyscene.checkpoint.sha256_of", read)
    assert last_good_checkpoint(tmp_path) == older
    told = f"WARNING: {newest} cannot be read (Input/output error); falling back"
    assert capsys.readouterr().err.startswith(told)


def test_what_was_passed_over_is_kept_but_once(tmp_path, capsys):
    """A file whose record is not to be seen may be whole; that the disk fills is no better."""
    folder = tmp_path / "checkpoints"
    good, *passed_over = (save(folder, step) for step in (1, 2, 3))
    passed_over[1].with_suffix(".json").unlink()
    content = passed_over[1].read_bytes()
    remove_leftovers(tmp_path, 1)
    kept = folder / "damaged-step-00000003.ckpt"
    assert sorted(folder.iterdir()) == [kept, good, good.with_suffix(".json")]
    assert kept.read_bytes() == content
    assert checkpoints(folder) == [good]
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith(f"WARNING: {passed_over[1]} looks damaged, and is {kept.name} from")
    assert errors[1] == f"WARNING: {passed_over[0]} looks damaged, and is removed"
    newer = save(folder, 4)
    remove_leftovers(tmp_path, 1)
    kept = folder / f"damaged-{newer.name}"
    assert sorted(folder.iterdir()) == [
        kept,
        kept.with_suffix(".json"),
        good,
        good.with_suffix(".json"),
    ]
    check_checkpoint(kept)


def test_files_of_other_names_are_no_checkpoints(tmp_path):
    folder = tmp_path / "checkpoints"
    good = save(folder, 100)
    others = [folder / f"step-{name}.ckpt" for name in ("00000100-one", "00000100.best", "last")]
    for path in others:
        path.touch()
    assert checkpoints(folder) == [good]
    remove_leftovers(tmp_path, 100)
    assert all(path.is_file() for path in others)


def test_nothing_to_go_on_from(tmp_path):
    assert last_good_checkpoint(tmp_path / "nowhere") is None
    first = save(tmp_path, 1)
    truncate(first)
    with pytest.raises(InputError, match=r"all 1 checkpoints in .* are damaged; restore one"):
        last_good_checkpoint(tmp_path)
    second = save(tmp_path, 2)
    for path in (first, second):  # records that were lost
        path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"all 2 checkpoints in .* are damaged; restore one"):
        last_good_checkpoint(tmp_path)


def test_a_kill_while_the_first_is_written_does_not_end_the_run(tmp_path, capsys):
    """The file is there before its checksum is known; shares are there one after another."""
    save(tmp_path / "file", 1).with_suffix(".json").unlink()
    share = tmp_path / "shares" / "step-00000001.ckpt" / "rank-00000-of-00002.ckpt"
    write_checkpoint({"global_step": 1}, share)
    for name in ("file", "shares"):
        assert last_good_checkpoint(tmp_path / name) is None
        told = f"WARNING: no checkpoint in {tmp_path / name} was ever finished: starting anew\n"
        assert capsys.readouterr().err.endswith(told)


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
    write_checkpoint({"global_step": 1, "callback": pytest.fail}, path)
    for load in (AtomicCheckpointIO(keep=3).load_checkpoint, read_checkpoint):
        with pytest.raises(Exception, match=r"(?i)weights.?only"):
            load(path)


def test_removal_takes_the_record_along(tmp_path):
    path = save(tmp_path, 7)
    AtomicCheckpointIO(keep=3).remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_removal_leaves_nothing_that_passes_for_finished(tmp_path, monkeypatch):
    path, unlink = save(tmp_path, 7), Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_checkpoint(path)
    assert [path] == list(tmp_path.iterdir())


CONTROLNETS = {  # UNets of the published bases
    "sd15": (
        859_520_964,
        5.8e9,
        {
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": 8,
            "cross_attention_dim": 768,
        },
    ),
    "sdxl": (
        2_567_463_684,
        20.1e9,
        {
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTROLNETS)
def test_the_size_of_a_checkpoint_of_a_real_base(name):
    """Weights, average and Adam's two moments in float32, as `test_train` finds in a real one."""
    unet_parameters, limit, config = CONTROLNETS[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        fim = ControlNetModel.from_unet(unet, conditioning_channels=5)
    assert sum(weights.numel() for weights in unet.parameters()) == unet_parameters
    tensors = list(fim.parameters())
    size = 4 * 4 * sum(weights.numel() for weights in tensors) + 4 * 1200 * len(tensors)
    assert 0.99 * limit < size < limit
