"""One process at a time in a folder, and what does not keep one out."""

import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
from child_process import SECONDS, child_process
from training import contents, refused

from anyscene.errors import InputError
from anyscene.locks import RUN_LOCK, alone_in
from anyscene.ranks import node_name

REPOSITORY = Path(__file__).resolve().parents[1]
HOLDER = """
import os, sys, time
from pathlib import Path
from anyscene.locks import alone_in
with alone_in(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's process
        time.sleep(600)
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def held_by_another(run: Path) -> Iterator[int]:
    """A process has the folder for itself, and has forked one that outlives it."""
    command = [sys.executable, "-c", HOLDER, str(run)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with child_process(command, env=environment, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
        with alone_in(run):  # the lock of a killed process is none, though its name is there
            assert (run / RUN_LOCK).read_text().startswith(f"process {os.getpid()} on ")
        assert not (run / RUN_LOCK).exists()


def test_a_second_training_of_a_run_is_refused(workspace, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    run = tmp_path / "first"
    with held_by_another(run) as pid:
        before = contents(run)
        line = refused(workspace.command("first", f"runs_dir={tmp_path}"), capsys)
        assert line == (
            f"anyscene: {run} is in use by another training (process {pid} on {node_name()}): "
            "wait for its end, or give this one another name=\n"
        )
        assert contents(run) == before


def test_a_requeued_job_is_not_kept_out_by_its_own_last_start(tmp_path, capsys, monkeypatch):
    """A lost node keeps its locks on a network file system for a while."""
    run = tmp_path / "run"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with held_by_another(run) as pid:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        before = contents(run)
        with alone_in(run):
            pass
        assert f"still locked by this job's last start (process {pid} on" in capsys.readouterr().err
        assert contents(run) == before
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        with pytest.raises(InputError, match=r"in use by another training .*, SLURM job 77\)"):
            alone_in(run).__enter__()


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with alone_in(tmp_path / "run"):
        pass
    line = capsys.readouterr().err
    assert line.startswith(f"WARNING: {tmp_path / 'run' / RUN_LOCK} cannot be locked (No locks")


def test_a_lock_that_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Its owner ended between this one's opening and locking: others see another file."""
    take, calls = fcntl.lockf, []

    def late(*arguments: object) -> None:
        if not calls:
            (tmp_path / RUN_LOCK).unlink()
        calls.append(arguments)
        take(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(fcntl, "lockf", late)
    with alone_in(tmp_path):
        assert (tmp_path / RUN_LOCK).read_text()
    assert len(calls) == 2


def test_a_lock_that_another_one_has_now_is_left_to_it(tmp_path):
    """A user removed the first one's, which was alive after all."""
    with alone_in(tmp_path):
        (tmp_path / RUN_LOCK).unlink()
        (tmp_path / RUN_LOCK).write_text("the second one's")
    assert (tmp_path / RUN_LOCK).read_text() == "the second one's"


def test_a_lock_that_cannot_be_removed_does_not_cost_the_run(tmp_path, monkeypatch):
    with alone_in(tmp_path):
        monkeypatch.setattr(Path, "unlink", Mock(side_effect=OSError(errno.ESTALE, "stale")))
    monkeypatch.undo()
    with alone_in(tmp_path):
        assert (tmp_path / RUN_LOCK).exists()


def test_nothing_stays_of_a_start_that_wrote_nothing(tmp_path):
    for is_new in (True, False):
        with pytest.raises(KeyError), alone_in(tmp_path / "run"):
            raise KeyError
        assert (tmp_path / "run").exists() != is_new
        (tmp_path / "run").mkdir(exist_ok=True)
    assert os.listdir(tmp_path / "run") == []
