"""Signals wait until training looks; the marker says whether a job is started again."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anyscene.errors import ConfigError, DamageError, InputError, LostRankError, RunFailedError
from anyscene.preemption import (
    MARKER,
    MOST_DEATHS,
    RunStopped,
    hold_signals,
    note_progress,
    stop_requested,
    survivable,
)
from anyscene.ranks import node_name

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def marker(tmp_path, monkeypatch):
    path = tmp_path / "logs" / "requeue-7"
    monkeypatch.setenv(MARKER, str(path))
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    return path


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGTERM"])
def test_a_held_signal_waits_and_is_seen(name):
    hold_signals()
    assert not stop_requested()
    for _ in range(2):  # to this thread: pytest's process has others, which hold nothing
        signal.pthread_kill(threading.get_ident(), signal.Signals[name])
    assert stop_requested()
    assert signal.sigwait({signal.Signals[name]}) == signal.Signals[name]
    assert not stop_requested()


def test_processes_started_later_are_safe_too():
    """Of a loader's worker, say, torch makes SIGTERM deadly; a blocked one never comes."""
    code = (
        "import subprocess, sys; from anyscene.preemption import hold_signals; hold_signals();"
        "sys.exit(subprocess.run(['sh', '-c', 'kill -USR1 $$; kill -TERM $$; exit 7']).returncode)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 7


def test_signals_are_held_before_anything_heavy_is_imported():
    code = (
        "import os, signal, sys; from anyscene import cli, preemption\n"
        "def note(): print(sorted({'torch', 'omegaconf'} & set(sys.modules)))\n"
        "preemption.signal.pthread_sigmask = lambda *_: note()\n"
        "cli.main(['train', 'nowhere.yaml'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def die_after(marker: Path, checkpoints: int) -> bool:
    """Whether the marker is there when a start dies after so many checkpoints."""

    def start() -> None:
        with survivable():
            for _ in range(checkpoints):
                note_progress()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start()
    return marker.exists()


def test_deaths_are_followed_by_another_start_but_not_without_end(marker):
    assert [die_after(marker, 0) for _ in range(MOST_DEATHS)] == [True] * MOST_DEATHS
    assert not die_after(marker, 0)


def test_a_checkpoint_makes_a_death_the_first_again(marker):
    for checkpoints in (0, 0, 1, 0):
        assert die_after(marker, checkpoints)
    assert marker.read_text() == "2\n"


def test_a_stop_is_always_followed_by_another_start(marker):
    for _ in range(2 * MOST_DEATHS):
        with pytest.raises(RunStopped, match="stopped at step 5, "), survivable():
            raise RunStopped(5)
        assert marker.read_text() == "0\n"


@pytest.mark.parametrize("error", [ConfigError, DamageError, RunFailedError, None])
def test_the_end_a_mistake_and_damage_are_not(error, marker):
    try:
        with survivable():
            assert marker.exists()
            if error is not None:
                raise error
    except (ConfigError, DamageError, RunFailedError):
        pass
    assert not marker.exists()


def test_ranks_that_do_not_answer_are_a_death(marker):
    """A network that was cut at the start ended a run for good."""

    def start() -> None:
        with pytest.raises(LostRankError), survivable():
            raise LostRankError("rank 0 on node1 got no report of rank 1 of 2")

    for _ in range(MOST_DEATHS):
        start()
        assert marker.exists()
    start()
    assert not marker.exists()


def test_a_mistake_on_another_rank_takes_the_marker_away_and_says_where(marker, monkeypatch):
    marker.parent.mkdir()
    marker.write_text("1\n")
    monkeypatch.setenv("SLURM_PROCID", "3")
    told = rf"^rank 3 on {node_name()}: 7 of 9 samples"
    with pytest.raises(DamageError, match=told), survivable():
        raise DamageError("7 of 9 samples")
    assert not marker.exists()
    with pytest.raises(DamageError, match="8 of 9"), survivable():  # nor does a second one mind
        raise DamageError("8 of 9 samples")
    marker.write_text("1\n")
    with survivable():
        pass
    assert marker.exists()  # of the end the first rank tells


def test_a_full_disk_does_not_start_a_job_again_without_end(marker, monkeypatch):
    """Nothing can be counted there: the marker that was emptied said 0 deaths each time."""
    marker.parent.mkdir()
    marker.write_text("2\n")

    def emptied(path: Path, _: str) -> None:
        path.open("w").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", emptied)
    told = r"requeue-7 cannot be written \(No space left"
    with pytest.raises(InputError, match=told), survivable():
        pytest.fail("training began")
    assert not marker.exists()
    marker.touch()
    with pytest.MonkeyPatch.context() as patch:  # it fills later, when the run is asked to stop
        patch.setattr("anyscene.preemption._announce_start", lambda: None)
        with pytest.raises(RunStopped), survivable():
            raise RunStopped(5)
    assert marker.exists()


@pytest.mark.parametrize("content", [b"", b"\0\0", b"x\n"])
def test_a_torn_marker_counts_from_the_beginning(content, marker):
    marker.parent.mkdir()
    marker.write_bytes(content)
    assert die_after(marker, 0)
    assert marker.read_text() == "1\n"


def test_only_rank_zero_and_only_a_job_have_a_marker(marker, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert not die_after(marker, 1)
    monkeypatch.delenv("SLURM_PROCID")
    monkeypatch.delenv(MARKER)
    assert not die_after(marker, 1)
