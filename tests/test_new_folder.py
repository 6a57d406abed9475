"""Folders that are there when they are whole, and what kills have left of them."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from anyscene.errors import InputError
from anyscene.new_folder import new_folder

REMAINS = (".out.123.part", ".out.00ffab.old")
OTHERS = (".out.part", ".out.x.123.part", ".outer.123.part", "out.123.part")


def make(folder: Path, content: str) -> None:
    folder.mkdir(parents=True)
    (folder / "file").write_text(content)


def make_out(out: Path, content: str) -> None:
    with new_folder(out, "export") as part:
        make(part, content)


def write_on_a_full_disk(folder: Path) -> None:
    make(folder, "half")
    raise OSError("full")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_remains_of_killed_processes_go(tmp_path):
    for name in (*REMAINS, *OTHERS):
        make(tmp_path / name, "remains")
    with new_folder(tmp_path / "out", "export") as part:
        assert not (tmp_path / REMAINS[0]).exists()  # there is room for the new one
        assert (tmp_path / REMAINS[1]).exists()  # perhaps the only whole one
        make(part, "new")
    assert names(tmp_path) == sorted(["out", *OTHERS])
    make_out(tmp_path / "out", "newer")
    assert (tmp_path / "out" / "file").read_text() == "newer"
    assert names(tmp_path) == sorted(["out", *OTHERS])


def test_the_remains_stay_where_their_owner_may_be_alive(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", fail)
    for name in REMAINS:
        make(tmp_path / name, "another's")
    make_out(tmp_path / "out", "new")
    assert set(REMAINS) < set(names(tmp_path))


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise BlockingIOError

    make(tmp_path / REMAINS[0], "another's")
    (tmp_path / ".out.lock").write_text("process 7 on node1")
    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(InputError) as caught:
        make_out(tmp_path / "out", "new")
    assert str(caught.value) == (
        f"{tmp_path / 'out'} is in use by another export (process 7 on node1): wait for its end, "
        "or choose another folder"
    )
    assert names(tmp_path) == [REMAINS[0], ".out.lock"]


@pytest.mark.parametrize("fails", ["filling", "renaming"])
def test_a_failure_leaves_what_was_there(fails, tmp_path, monkeypatch):
    out, rename = tmp_path / "out", Path.rename
    make(out, "old")
    make(tmp_path / REMAINS[1], "older")

    def fail(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    if fails == "renaming":
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match=r"full|Input/output"), new_folder(out, "export") as part:
        make(part, "new") if fails == "renaming" else write_on_a_full_disk(part)
    assert (out / "file").read_text() == "old"
    assert names(tmp_path) == [REMAINS[1], "out"]


def test_a_link_leads_to_the_new_folder(tmp_path):
    make(tmp_path / "models" / "v1", "old")
    (tmp_path / "latest").symlink_to("models/v1")
    make_out(tmp_path / "latest", "new")
    assert (tmp_path / "models" / "v1" / "file").read_text() == "new"
    assert names(tmp_path) == ["latest", "models"]
    assert names(tmp_path / "models") == ["v1"]
