"""W&B that dies, hangs or is refused costs a run one warning and a few seconds at its end."""

import os
import signal
import time
from pathlib import Path

import pytest
from run_files import RunFiles, all_figures
from wandb_server import wandb_server

from anyscene.callbacks.metrics_csv import read_metrics
from anyscene.tracking import follower
from anyscene.tracking.follow import kill_children
from anyscene.tracking.follower import WandbFollower
from anyscene.tracking.transaction_log import read_recorded

WAIT_SECONDS = 30.0


@pytest.fixture
def files(demo_shards: Path, tmp_path: Path, monkeypatch) -> RunFiles:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(follower, "MARGIN_SECONDS", 2.0)
    return RunFiles.make(tmp_path / "tiny", demo_shards)


@pytest.mark.slow
@pytest.mark.parametrize("mood", ["refuses", "hangs", "errors", "nonsense", "full"])
def test_a_bad_server(mood, files, monkeypatch, capfd):
    with wandb_server(mood) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        if mood == "refuses":
            monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # "discard": nobody listens
        csv = files.begin(0)
        logger = WandbFollower(files.folder, WAIT_SECONDS)
        files.do(csv, 1, 9)
        begin = time.monotonic()
        logger.end(finished=True)
        assert time.monotonic() - begin < WAIT_SECONDS + 5
    errors = capfd.readouterr().err
    assert errors.count("WARNING") == 1, errors
    assert len(read_metrics(files.folder / "metrics.csv")) == 2 * 9 + 2
    if mood != "nonsense":  # which lets W&B itself crash
        figures = read_recorded(files.folder).figures
        assert all_figures(9) <= figures  # on the disk, to be uploaded later


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_frozen_process(how, files, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "offline")
    csv = files.begin(0)
    logger = WandbFollower(files.folder, 1.0)
    assert logger.process is not None
    os.kill(logger.process.pid, how)
    for step in range(1, 10):
        files.do(csv, step, step)
        begin = time.monotonic()
        logger.log_metrics({}, step)
        assert time.monotonic() - begin < 0.5
        time.sleep(0.02)
    logger.end(finished=True)
    assert capfd.readouterr().err.count("WARNING: W&B has stopped (SIGKILL)") == 1
    assert len(read_metrics(files.folder / "metrics.csv")) == 2 * 9 + 2


@pytest.mark.slow
def test_a_dead_core_and_the_start_after_it(files, monkeypatch, capfd):
    """W&B's own process is killed under the follower; the next start tells what is missing."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    csv = files.begin(0)
    logger = WandbFollower(files.folder, 10.0)
    assert logger.process is not None
    end = time.monotonic() + 60
    while not list(files.folder.glob("wandb/*run-*/run-*.wandb")):
        assert time.monotonic() < end
        time.sleep(0.2)
    kill_children(logger.process.pid)
    files.do(csv, 1, 9)
    logger.end(finished=True)
    assert capfd.readouterr().err.count("WARNING") == 1
    files.begin(9)
    WandbFollower(files.folder, 30.0).end(finished=True)
    assert "WARNING" not in capfd.readouterr().err
    assert all_figures(9) <= read_recorded(files.folder).figures
