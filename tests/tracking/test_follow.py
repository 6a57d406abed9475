"""The process that lets W&B follow a run: when it ends, and that it is the only one."""

import fcntl
import io
import os
import shlex
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anyscene.tracking import follow, mirror
from anyscene.tracking.follow import AlreadyFollowedError, Lifeline, later, only_one
from anyscene.tracking.follower import WandbFollower


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path


def lifeline_of(said: bytes, monkeypatch) -> Lifeline:
    """One whose training process has said so much and is gone."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(said)))
    lifeline = Lifeline(pytest.fail, 0)
    assert lifeline.ended.wait(10)
    return lifeline


def test_a_run_has_ended_well_only_where_it_says_so(monkeypatch):
    assert lifeline_of(b"0", monkeypatch).exit_code == 0
    assert lifeline_of(b"", monkeypatch).exit_code == 1  # killed


def test_what_training_writes_as_it_ends_is_told_too(run, monkeypatch):
    """It ends while the mirror looks, after which there are more figures."""
    lifeline = lifeline_of(b"0", monkeypatch)
    lifeline.ended.clear()
    looks, codes = [], []

    def update() -> None:
        looks.append(lifeline.ended.is_set())
        lifeline.ended.set()

    finish = SimpleNamespace(finish=lambda exit_code: codes.append(exit_code))
    monkeypatch.setattr(follow, "open_experiment", lambda *_: finish)
    monkeypatch.setattr(mirror, "Mirror", lambda *_: SimpleNamespace(update=update))
    terminal: Any = SimpleNamespace(warned=False, warn=pytest.fail, log_says=lambda _: False)
    follow.follow(run, lifeline, Namespace(), terminal)
    assert (looks, codes) == ([False, True], [0])


@pytest.mark.parametrize("finished", [True, False])
def test_the_follower_hears_how_the_run_ended_and_no_signal_of_its_terminal(
    finished, run, monkeypatch
):
    """A stand-in for its Python writes down what it is given; W&B's own process of training, if
    there is one, is not for it."""
    python = run / "python"
    notes = f"env >{run}/env; cut -d' ' -f6 /proc/$$/stat >{run}/session; cat >{run}/said"
    python.write_text(f"#!/bin/sh\n{notes}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("WANDB_SERVICE_PORT", "7")
    WandbFollower(run, 30).end(finished)
    assert (run / "said").read_text() == ("0" if finished else "")
    assert "WANDB_SERVICE" not in (run / "env").read_text()
    assert int((run / "session").read_text()) != os.getsid(0)


def test_a_start_waits_for_the_follower_of_the_one_before(run):
    with only_one(run, patient=False):
        with pytest.raises(AlreadyFollowedError), only_one(run, patient=False):
            pytest.fail("two follow")
        entered = threading.Event()

        def wait() -> None:
            with only_one(run, patient=True):
                entered.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(10)
    assert entered.is_set()


def test_tracking_a_run_that_is_followed_says_so(run):
    with (run / "logs/.wandb.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "anyscene.tracking.follow", str(run)]
        done = subprocess.run(command, input="0", capture_output=True, text=True, timeout=60)
    said = "W&B follows this run already, from a process that trains it\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_the_command_to_upload_later_is_one_for_a_shell():
    command = later(Path("my runs/it's")).partition("To upload later: ")[2]
    assert shlex.split(command)[-1] == "my runs/it's/wandb/*run-*"
