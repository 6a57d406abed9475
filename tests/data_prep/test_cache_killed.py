"""`prepare cache` as a real process, killed in the middle and run again."""

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
from child_process import SECONDS, child_process
from shard_folders import rewrite, write_shards
from small_coco import file_bytes
from test_coco_killed import REPOSITORY, wait_for_shards

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from data_prep.journal import RUNNING_NAME
from data_prep.verify import verify

SAMPLES = 120  # in 60 shards


def command(source: Path, base: Path, out: Path) -> list[str]:
    words = {"base": base, "out": out, "device": "cpu", "batch-size": 2}
    options = [f"--{name}={value}" for name, value in words.items()]
    return ["prepare", "cache", str(source), *options]


def process_of(words: list[str]) -> AbstractContextManager[Popen]:
    return child_process(
        [sys.executable, "-m", "anyscene.cli", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )


@pytest.mark.slow
def test_after_a_kill_the_same_command_ends_in_the_same_cache(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    """One sample of the first shard is damaged: the count of it outlives the kill, too."""
    source = write_shards(tmp_path / "source", samples=SAMPLES)
    rewrite(source, lambda samples: samples[0][1].pop("mask.png"))
    assert main(command(source, tiny_base_folder, tmp_path / "whole")) == 0
    out = tmp_path / "out"
    words = command(source, tiny_base_folder, out)
    with process_of(words) as process:
        wait_for_shards(out, process, 3)
        process.kill()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert RUNNING_NAME in file_bytes(out)
    assert 3 <= len(kept) < SAMPLES // 2
    with process_of(words) as process:
        assert process.wait(SECONDS) == 0
    assert file_bytes(out) == file_bytes(tmp_path / "whole")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # not made again
    rejected = ShardManifest.read(out).rejected
    assert rejected["damaged sample: mask.png is missing"] == 1
    assert verify(out, workers=1).damages == []
