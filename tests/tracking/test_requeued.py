"""W&B over a requeue, in its own offline files, and uploaded later to a server."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_files import RunFiles, all_figures
from wandb_server import wandb_server

from anyscene.cli import main
from anyscene.tracking.follow import kill_children
from anyscene.tracking.follower import WandbFollower
from anyscene.tracking.transaction_log import STEP, history_row, read_recorded, read_run


@pytest.fixture(scope="module")
def requeued(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """Nine steps: after the seventh all processes of the first start are killed, W&B's among them,
    and the second goes on from the checkpoint of the sixth."""
    files = RunFiles.make(tmp_path_factory.mktemp("requeued") / "tiny", demo_shards)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.delenv("WANDB_MODE", raising=False)
        patch.setenv("NETRC", "/nowhere")
        csv = files.begin(0, job="11")
        first = WandbFollower(files.folder, 30)
        files.do(csv, 1, 7)
        wait_for(lambda: (6, "train/loss") in read_recorded(files.folder).figures)
        kill_children(first.process.pid)
        first.process.kill()
        first.end(finished=False)
        csv = files.begin(6, job="22")
        second = WandbFollower(files.folder, 30)
        files.do(csv, 7, 9)
        (files.folder / "evaluation.json").write_text("{}")
        second.end(finished=True)
    return files


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_no_step_is_missing_or_there_twice(requeued):
    rows = [history_row(r) for r in read_run(requeued.folder) if r.HasField("history")]
    own = ("_", STEP)  # W&B's names begin with the first
    told = Counter((row[STEP], name) for row in rows for name in row if not name.startswith(own))
    assert set(told) == all_figures(9)
    assert set(told.values()) == {1}
    losses = {row[STEP]: row["train/loss"] for row in rows if "train/loss" in row}
    assert losses == {step: step / 8 for step in range(1, 10)}


def test_one_run_that_says_what_it_ran_on(requeued):
    records = list(read_run(requeued.folder))
    assert {r.run.run_id for r in records if r.HasField("run")} == {"tiny-1234"}
    config = {
        item.key: json.loads(item.value_json)
        for record in records
        if record.HasField("config")
        for item in record.config.update
    }
    assert config["slurm_job_ids"] == ["11", "22"]
    assert config["git_commit"] == "c0ffee"
    assert config["versions"] == {"torch": "2"}
    assert config["data"]["mix"] == {}
    axes = {(r.metric.glob_name or r.metric.name) for r in records if r.HasField("metric")}
    assert {STEP, "*"} <= axes


def test_data_checkpoints_reports_and_tables_are_artifacts(requeued):
    artifacts = [r.artifact for r in read_run(requeued.folder) if r.HasField("artifact")]
    kinds = Counter((a.type, json.loads(a.metadata or "{}").get("step")) for a in artifacts)
    checkpoints = {("checkpoint", step): 1 for step in (3, 6, 9)}
    others = {("data-manifest", None): 2, ("evaluation-report", None): 1, ("run_table", None): 2}
    assert kinds == checkpoints | others
    (last,) = [a for a in artifacts if "step-9" in a.aliases]
    (entry,) = last.manifest.contents
    place = (requeued.folder / "checkpoints/step-00000009.ckpt").absolute()
    assert entry.ref == f"file://{place}"  # where it lies: weights are not uploaded
    assert json.loads(last.metadata)["sha256"] == f"{9:064d}"
    tables = list(requeued.folder.glob("wandb/*run-*/files/media/table/**/*.json"))
    columns = [json.loads(table.read_text())["columns"] for table in tables]
    assert columns == [["prompt", "foreground", "generated", "real"]] * 2


def test_the_command_to_upload_later_is_printed_and_works(requeued, monkeypatch, capfd):
    """All offline parts become one run with every step once."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    assert main(["track", str(requeued.folder)]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    said, _, command = line.partition("To upload later: wandb ")
    assert said == "W&B is offline. "
    place = Path(shlex.split(command)[-1])  # with a pattern at its end
    assert place.parent == requeued.folder / "wandb"
    assert len(list(place.parent.glob(place.name))) == 3
    with wandb_server("good") as server:
        key = {"WANDB_API_KEY": 40 * "0", "WANDB_BASE_URL": server.address}
        subprocess.run(
            f"{shlex.quote(sys.executable)} -m wandb {command}",
            shell=True,
            env=os.environ | key,
            check=True,
            timeout=60,
            capture_output=True,
        )
        lines: list[dict[str, Any]] = [row for _, row in sorted(server.history.items())]
        names = {values["name"] for values in server.runs[:1]}
    assert names == {"tiny-1234"}
    assert list(server.history) == list(range(len(lines)))
    told = [(row[STEP], "train/loss") for row in lines if "train/loss" in row]
    assert told == [(step, "train/loss") for step in range(1, 10)]
    assert all(row["_step"] == row[STEP] for row in lines)
    assert "WARNING" not in capfd.readouterr().err
