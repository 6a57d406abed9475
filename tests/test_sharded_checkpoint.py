"""Checkpoints in shares: finished when all ranks have written, and then one like another."""

import errno
import json
import os
import shutil
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from anyscene.checkpoint import (
    AtomicCheckpointIO,
    check_checkpoint,
    last_good_checkpoint,
    read_checkpoint,
    read_first_share,
    write_checkpoint,
)
from anyscene.convert_checkpoint import convert_checkpoint
from anyscene.errors import DamageError, InputError
from anyscene.ranks import node_name
from anyscene.run_folder import remove_leftovers

WHOLE = torch.arange(15.0).reshape(5, 3)
ROWS = ((0, 3), (3, 5), (5, 5))
"""The rows of three ranks; the last one has none, as of a small weight."""


def ios(keep: int = 2) -> list[AtomicCheckpointIO]:
    """Those of three ranks."""
    found = []
    for rank in range(3):
        io = AtomicCheckpointIO(keep)
        io.share = (rank, 3)
        found.append(io)
    return found


def own(rank: int, step: int) -> dict:
    """What a rank saves; the identity is rank zero's alone."""
    first, end = ROWS[rank]
    share = {"shape": [5, 3], "share": WHOLE[first:end] + step}
    state = OrderedDict(weight=share, count=torch.tensor(step))
    identity = {"identity": {"run_id": "x"}} if rank == 0 else {}
    return {"global_step": step, "state_dict": state, "list": [share, (step, None)], **identity}


def save(folder: Path, step: int, ranks: list[AtomicCheckpointIO]) -> Path:
    path = folder / f"step-{step:08d}.ckpt"
    for io in reversed(ranks):
        io.save_checkpoint(own(io.share[0], step), path)
    for io in ranks:
        io.finish()
    return path


def fail_with_a_full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_shares_are_read_as_one(tmp_path):
    path = save(tmp_path, 7, ios())
    check_checkpoint(path)
    for state in (read_checkpoint(path), AtomicCheckpointIO(2).load_checkpoint(path)):
        assert torch.equal(state["state_dict"]["weight"], WHOLE + 7)
        assert torch.equal(state["list"][0], WHOLE + 7)
        assert (state["list"][1], state["identity"]) == ((7, None), {"run_id": "x"})
        assert state["state_dict"]["count"] == state["global_step"] == 7
        assert isinstance(state["state_dict"], OrderedDict)
    first = read_first_share(path)
    assert (first["global_step"], len(first["state_dict"]["weight"]["share"])) == (7, 3)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["step"] == 7
    assert record["bytes"] == sum(share.stat().st_size for share in path.glob("*.ckpt"))


def test_conversion_overwrites_nothing_and_takes_checkpoints_alone(tmp_path):
    folder, taken = save(tmp_path / "checkpoints", 1, ios()), tmp_path / "run.json"
    taken.write_text("{}")
    with pytest.raises(InputError, match=r"run\.json is there already"):
        convert_checkpoint(folder, taken.with_suffix(".ckpt"))
    assert taken.read_text() == "{}"
    with pytest.raises(InputError, match=r"checkpoints is no checkpoint in shares"):
        convert_checkpoint(folder.parent, tmp_path / "one.ckpt")
    convert_checkpoint(folder, tmp_path / "one.ckpt")
    check_checkpoint(tmp_path / "one.ckpt")


def test_a_share_of_another_checkpoint_is_found(tmp_path):
    """It is whole, and its own record says so."""
    ranks = ios()
    one, other = (save(tmp_path, step, ranks) for step in (1, 2))
    for path in sorted(one.glob("rank-00001*")):
        shutil.copy(path, other / path.name)
    with pytest.raises(DamageError, match=r"has other shares than its record step-00000002\.json"):
        check_checkpoint(other)


def test_the_newest_stay_whichever_rank_is_last(tmp_path):
    ranks = ios(keep=2)
    for step in (1, 2, 3):
        save(tmp_path, step, ranks)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-0000000{n}.{kind}" for n in (2, 3) for kind in ("ckpt", "json")]


def test_a_rank_that_does_not_write_leaves_the_one_before(tmp_path, monkeypatch, capsys):
    ranks = ios()
    first = save(tmp_path, 1, ranks)
    monkeypatch.setattr("anyscene.checkpoint.SHARE_SECONDS", 0.1)
    with pytest.raises(DamageError, match=r"rank 1, 2 did not write a share"):
        save(tmp_path, 2, ranks[:1])
    assert capsys.readouterr().err.startswith(f"WARNING: {tmp_path / 'step-00000002.ckpt'} could")
    assert sorted(tmp_path.iterdir()) == [first, first.with_suffix(".json")]
    assert last_good_checkpoint(tmp_path) == first


@pytest.mark.parametrize("failing", [(0,), (1,), (1, 2), (0, 1, 2)])
def test_a_full_disk_leaves_no_shares(failing, tmp_path, monkeypatch):
    """Neither of the ranks that could write nor of those that could not; and the first rank, which
    would wait longer than this test may take, says at once which could not, and why."""
    first, path = save(tmp_path, 1, ios()), tmp_path / "step-00000002.ckpt"
    ranks = ios()
    for rank in (2, 1, 0):
        with monkeypatch.context() as patch:
            if rank in failing:
                patch.setattr("anyscene.checkpoint.torch.save", fail_with_a_full_disk)
            ranks[rank].save_checkpoint(own(rank, 2), path)
            ranks[rank].teardown()
    assert sorted(tmp_path.iterdir()) == [first, first.with_suffix(".json")]
    reasons = [
        f"rank {rank} on {node_name()}: [Errno 28] No space left on device" for rank in failing
    ]
    told = {rank: [reason] for rank, reason in zip(failing, reasons, strict=True)}
    if 0 not in failing:
        told[0] = reasons
    for rank in range(3):
        if rank in told:
            with pytest.raises(DamageError) as caught:
                ranks[rank].finish()
            assert f"could not be written ({'; '.join(told[rank])}); make room" in str(caught.value)
        else:
            ranks[rank].finish()


def test_unfinished_shares_do_not_push_out_good_ones(tmp_path):
    """A share that came after the first rank had given up goes with the next checkpoint."""
    ranks = ios(keep=2)
    first = save(tmp_path, 1, ranks)
    late = tmp_path / "step-00000002.ckpt"
    write_checkpoint({"global_step": 2}, late / "rank-00001-of-00003.ckpt")
    last = save(tmp_path, 3, ranks)
    good = [path for step in (first, last) for path in (step, step.with_suffix(".json"))]
    assert sorted(tmp_path.iterdir()) == good


def test_starts_do_not_fill_the_disk(tmp_path):
    """Shares that never became a checkpoint go, for the run writes it anew, perhaps with other
    ranks; and what a killed process was writing. Another's folder stays."""
    folder = tmp_path / "checkpoints"
    good = save(folder, 1, ios())
    unfinished = folder / "step-00000003.ckpt"
    write_checkpoint({"global_step": 3}, unfinished / "rank-00001-of-00003.ckpt")
    for part in (folder / ".step-00000004.ckpt.12.part", tmp_path / ".run.json.12.part"):
        part.touch()
    export = tmp_path / ".export.12.part"
    export.mkdir()
    remove_leftovers(tmp_path, 1)
    assert sorted(folder.iterdir()) == [good, good.with_suffix(".json")]
    assert sorted(tmp_path.iterdir()) == [export, folder]
    check_checkpoint(good)


def test_shares_that_look_damaged_are_kept_under_another_name(tmp_path):
    folder = tmp_path / "checkpoints"
    passed_over, kept = save(folder, 2, ios()), folder / "damaged-step-00000002.ckpt"
    for _ in range(2):  # a start that is killed before it saves
        remove_leftovers(tmp_path, 1)
        assert sorted(folder.iterdir()) == [kept, kept.with_suffix(".json")]
    check_checkpoint(kept)
    again = save(folder, 2, ios())
    assert again == passed_over
    assert last_good_checkpoint(folder) == again
    remove_leftovers(tmp_path, 1)  # the same step once more
    assert sorted(folder.iterdir()) == [kept, kept.with_suffix(".json")]
