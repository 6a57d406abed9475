"""Validation on what is trained on, as far as manifests and indexes tell it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from shard_files import Members, png, scene_of, write_shards

from anyscene.config import BaseConfig, Config, DataConfig, DebugConfig
from anyscene.data import overlap as module
from anyscene.data.index import index_path
from anyscene.data.overlap import overlap, warn_of_overlap


@pytest.fixture
def train(tmp_path: Path) -> str:
    """Five scenes in two shards, 0 to 4."""
    write_shards(tmp_path / "train", [3, 2], indexed=True)
    return str(tmp_path / "train")


def others(key: str, members: Members) -> Members:
    """Scenes that nobody else has under their keys, but for the last of them."""
    number = int(key[-6:])
    return members | {"scene.png": png(scene_of(number + 100 * (number != 3), (16, 16)))}


def test_the_same_shards_are_known_wherever_they_lie(train, tmp_path):
    moved = str(shutil.copytree(train, tmp_path / "moved"))
    for path in (tmp_path / "moved").glob("*.index"):
        path.unlink()
    for val in (train, moved):
        assert overlap(val, 64, [train]) == (5, 5)
        assert overlap(val, 4, [train]) == (4, 4)
    other = str(write_shards(tmp_path / "other", [2], change=others).root)
    assert overlap(moved, 64, [other]) == (0, 5)
    assert overlap(moved, 64, [other, train]) == (5, 5)


def test_the_same_scenes_of_other_shards_are_known_by_their_indexes(train, tmp_path, monkeypatch):
    val = write_shards(tmp_path / "val", [4], change=others, indexed=True)
    folder = str(val.root)
    assert overlap(folder, 64, [train]) == (1, 4)  # keys alone would be four
    assert overlap(folder, 3, [train]) == (0, 3)
    with monkeypatch.context() as patch:
        patch.setattr(module, "MOST_INDEX_BYTES", 100)  # it would take too long
        assert overlap(folder, 64, [train]) == (0, 4)
    index_path(val.path(0)).write_text("damaged")
    assert overlap(folder, 64, [train]) == (0, 4)


def test_a_warning_says_how_many(train, capsys):
    data = DataConfig(train=train, val=train)
    config = Config(name="x", base=BaseConfig(path="base"), data=data)
    warn_of_overlap(replace(config, debug=DebugConfig(overfit=4)))
    warn_of_overlap(replace(config, data=replace(data, val=None)))
    assert capsys.readouterr().err == ""
    warn_of_overlap(config)
    line = capsys.readouterr().err
    assert line.startswith(f"WARNING: 5 of the 5 validation samples of data.val='{train}' are tr")
    assert line.count("\n") == 1
