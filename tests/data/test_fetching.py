"""One file from a server or a command: whole in the end, or an error in bounded time."""

import socket
import time
from contextlib import suppress
from pathlib import Path

import fsspec
import fsspec.implementations.http  # its import is not part of any wait below
import psutil
import pytest
from shard_server import serve

from anyscene.data import fetching
from anyscene.data.fetching import check_location, fetch, list_names
from anyscene.errors import ConfigError, DamageError, InputError

DATA = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(fetching, "STALL_SECONDS", 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "shard.tar").write_bytes(DATA)
    return folder


def check_bytes(path: Path) -> None:
    if path.read_bytes() != DATA:
        raise DamageError("other bytes")


@pytest.mark.parametrize(
    "faults",
    [[], ["500", "500"], ["hang"], ["drip"], ["cut"], ["short"], ["flip", "500", "hang"]],
    ids=" ".join,
)
def test_a_passing_fault_of_a_server_is_overcome(
    faults: list[str], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(folder) as server:
        server.faults["shard.tar"] = list(faults)
        fetch(server.url, "shard.tar", tmp_path / "here", check_bytes)
        assert server.requests["shard.tar"] == len(faults) + 1
    assert (tmp_path / "here").read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "remote"]
    assert [record.args[1] for record in caplog.records] == list(range(1, len(faults) + 1))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "500, message='Internal Server Error'"),
        ("hang", "TimeoutError"),
        ("drip", "TimeoutError: [0-9]+ bytes came in 1 s"),
        ("cut", "Response payload is not completed|ContentLengthError|ClientPayloadError"),
        ("flip", "DamageError: other bytes"),
    ],
)
def test_a_lasting_fault_of_a_server_names_the_file(
    fault: str, reason: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCH_TRIES", 2)
    began = time.monotonic()
    with serve(folder) as server:
        server.faults["shard.tar"] = [fault] * 9
        with pytest.raises(InputError, match=reason) as caught:
            fetch(server.url, "shard.tar", tmp_path / "here", check_bytes)
        assert server.requests["shard.tar"] == 2
    assert str(caught.value).startswith(f"shard.tar of '{server.url}' cannot be fetched: ")
    assert str(caught.value).endswith("; 2 tries failed")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 8
    assert [path.name for path in tmp_path.iterdir()] == ["remote"]


def test_a_server_that_refuses_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=r"shard.tar of .* Cannot connect .*4 tries failed"):
        fetch(url, "shard.tar", tmp_path / "here")


def test_a_file_that_a_server_does_not_have_is_not_asked_for_again(
    folder: Path, tmp_path: Path
) -> None:
    with serve(folder) as server:
        with pytest.raises(FileNotFoundError):
            fetch(server.url, "other.tar", tmp_path / "here")
        assert server.requests["other.tar"] == 1


def test_a_command_prints_the_file(folder: Path, tmp_path: Path) -> None:
    fetch(f"pipe:cat {folder}/{{name}} | cat", "shard.tar", tmp_path / "here", check_bytes)
    assert (tmp_path / "here").read_bytes() == DATA


def test_a_name_is_never_run_as_a_command(folder: Path, tmp_path: Path) -> None:
    name = "a b;touch touched"
    (folder / name).write_bytes(b"data")
    fetch(f"pipe:cd {folder}; cat {{name}}", name, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"data"
    assert not (folder / "touched").exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo first >&2; echo no such bucket >&2; false {name}", "status 1: no such bucket"),
        ("sleep 98.7 | cat {name}", "TimeoutError: 0 bytes came in 1 s"),
        ("head -c 2000000 /dev/zero; sleep 98.7; echo {name}", "TimeoutError: 0 bytes came in 1 s"),
        ("head -c 100 /dev/zero; echo {name}", "DamageError: other bytes"),
    ],
    ids=["fails", "hangs", "hangs later", "prints something else"],
)
def test_a_failing_command_is_an_error(
    command: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "FETCH_TRIES", 2)
    began = time.monotonic()
    with pytest.raises(InputError, match=reason) as caught:
        fetch(f"pipe:{command}", "-", tmp_path / "here", check_bytes)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 8
    assert list(tmp_path.iterdir()) == []
    left = [process for process in psutil.process_iter() if "sleep 98.7" in words_of(process)]
    assert psutil.wait_procs(left, timeout=5)[1] == []  # a killed one takes a moment to end


def words_of(process: psutil.Process) -> str:
    """The command line of a process, empty for one that has ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def test_a_slow_source_that_keeps_coming_is_waited_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "STALL_BYTES", 1000)
    monkeypatch.setattr(fetching, "STALL_SECONDS", 0.5)
    slowly = "for i in 1 2 3 4 5 6 7 8; do head -c 128000; sleep 0.2; done"
    here = tmp_path / "here"
    fetch(f"pipe:cat {folder}/{{name}} | ({slowly})", "shard.tar", here, check_bytes)
    assert here.read_bytes() == DATA


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/shard.tar", DATA)
    fetch("memory://set", "shard.tar", tmp_path / "here", check_bytes)
    assert list_names("memory://set") == ["shard.tar"]
    assert list_names("memory://nowhere") == []


def test_names_on_a_server_are_listed(folder: Path) -> None:
    (folder / "part-00000-of-00002").mkdir()
    with serve(folder) as server:
        assert sorted(list_names(server.url)) == ["part-00000-of-00002", "shard.tar"]


def test_a_location_is_checked_without_reading_it() -> None:
    check_location("data.train", "https://nowhere.invalid/x")
    with pytest.raises(ConfigError, match=r"data.train='pipe:cat x' has no {name}: write"):
        check_location("data.train", "pipe:cat x")
    with pytest.raises(ConfigError, match=r"data.val='htps://x' cannot be .*Protocol not known"):
        check_location("data.val", "htps://x")
