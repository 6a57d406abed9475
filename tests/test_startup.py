"""Checks before a model is built: errors name node and rank."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_config
from torch import distributed

from anyscene.cluster import startup
from anyscene.cluster.startup import (
    Report,
    check_folders,
    check_job_size,
    exchange,
    judge,
    make_report,
    open_store,
)
from anyscene.errors import InputError, LostRankError


@pytest.fixture
def config(tiny_base_folder, demo_shards, tmp_path):
    return tiny_config(tiny_base_folder, demo_shards, tmp_path / "runs")


@pytest.fixture
def run(config):
    return Path(config.runs_dir) / config.name


FINE = Report(0, "node1", 0, {"torch": "2.13"}, "abc", [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": {"torch": "2.9"}}, "has torch 2.9, rank 0 on node1 has 2.13"),
        ({"config_sha256": "abd"}, "has another configuration than rank 0 on node1"),
        ({"problems": ["the run folder cannot be written"]}, "the run folder cannot be written"),
    ],
)
def test_what_differs_is_told_with_node_and_rank(change, told, config):
    other = replace(FINE, rank=3, node="node2")
    judge([FINE, other], config)
    with pytest.raises(InputError) as caught:
        judge([FINE, replace(other, **change)], config)
    assert str(caught.value) == f"rank 3 on node2: {told}"


def test_missing_gpus_are_told(config):
    asked = replace(config, cluster=replace(config.cluster, gpus=8))
    with pytest.raises(InputError, match="rank 0 on node1: sees 0 GPUs, not 8"):
        judge([FINE], asked)
    two = replace(config, train=replace(config.train, devices=2))
    with pytest.raises(InputError, match=r"rank 1 on node2: sees 1 GPUs, not 2$"):
        judge([replace(FINE, devices=2), replace(FINE, rank=1, node="node2", devices=1)], two)


@pytest.mark.parametrize(
    ("variables", "fits"),
    [
        ({"SLURM_NNODES": "1", "SLURM_NTASKS": "1"}, True),
        ({"SLURM_NNODES": "2", "SLURM_NTASKS": "2"}, False),
        ({"SLURM_NNODES": "1", "SLURM_NTASKS": "2"}, False),
    ],
)
def test_the_job_has_the_ranks_that_were_asked_for(variables, fits, config, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if fits:
        check_job_size(config)
    else:
        with pytest.raises(InputError, match=r"but train.nodes x train.devices = 1 x 1; give srun"):
            check_job_size(config)


def test_as_many_ranks_on_other_nodes_are_not_those_asked_for(config, monkeypatch):
    monkeypatch.setenv("SLURM_NNODES", "2")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    two = replace(config, train=replace(config.train, devices=2))
    with pytest.raises(InputError, match=r"has 2 tasks on 2 nodes, but .* = 1 x 2; give srun"):
        check_job_size(two)


def test_folders_that_are_there(config, run):
    assert check_folders(config, run) == []
    assert list(run.iterdir()) == []
    fetched = replace(config.data, train="https://a.b/c", mix={"pipe:cat /no": 1.0}, val="s3://a")
    assert check_folders(replace(config, data=fetched), run) == []


def test_a_run_folder_that_cannot_be_made(config, run):
    run.parent.mkdir(exist_ok=True)
    run.write_text("a file")
    (problem,) = check_folders(config, run)
    assert problem == f"the run folder {run} cannot be written (File exists)"


def test_shards_that_are_lost_or_cut(config, run, demo_shards, tmp_path):
    shards = Path(shutil.copytree(demo_shards / "train", tmp_path / "train"))
    config = replace(config, data=replace(config.data, train=str(shards)))
    first = next(shards.glob("*.tar"))
    whole = first.read_bytes()
    for changed in (whole[:-1], whole + b"0"):
        first.write_bytes(changed)
        (problem,) = check_folders(config, run)
        assert problem == f"{first} has {len(changed)} bytes, not {len(whole)}"
    first.unlink()
    (problem,) = check_folders(config, run)
    assert problem == f"{first} cannot be read (No such file or directory)"
    data = replace(config.data, train=str(demo_shards / "train"))
    for other in (replace(data, mix={str(shards): 0.5}), replace(data, val=str(shards))):
        assert check_folders(replace(config, data=other), run) == [problem]


def ranks_of(config, run, change) -> tuple[list[BaseException | None], distributed.HashStore]:
    """What `exchange` raises on two ranks; `change` makes the second one's report."""
    store = distributed.HashStore()
    store.set_timeout(timedelta(seconds=20))
    own = make_report(config, run, 0)
    reports = [own, change(replace(own, rank=1, node="node2"))]
    raised: list[BaseException | None] = [None, None]

    def take_part(rank: int) -> None:
        try:
            exchange(store, reports[rank], 2, config, run)
        except BaseException as error:
            raised[rank] = error

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised, store


def test_all_ranks_go_on_or_none(config, run):
    assert ranks_of(config, run, lambda report: report)[0] == [None, None]
    assert list(run.iterdir()) == []
    begin = time.monotonic()
    raised, _ = ranks_of(config, run, lambda report: replace(report, config_sha256="other"))
    assert time.monotonic() - begin < startup.TELL_SECONDS  # no longer than the others need
    assert "rank 1 on node2: has another configuration" in str(raised[0])
    assert isinstance(raised[1], SystemExit)
    assert raised[1].code == 2


def test_a_folder_that_is_not_shared(config, run, monkeypatch):
    monkeypatch.setattr(startup, "SHARED_SECONDS", 0)
    monkeypatch.setattr(startup.Path, "exists", lambda path: not path.name.startswith(".shared"))
    raised, _ = ranks_of(config, run, lambda report: report)
    assert "rank 1 on node2: does not see what rank 0 on" in str(raised[0])
    assert str(raised[0]).endswith("it is not shared")


def test_a_rank_that_never_comes_is_named(config, run, monkeypatch):
    monkeypatch.setattr(startup, "TELL_SECONDS", 0)
    config = replace(config, cluster=replace(config.cluster, timeout_minutes=0.01))
    begin = time.monotonic()
    with pytest.raises(LostRankError, match=r"got no report of rank 1, 2 of 3 within cluster\."):
        exchange(distributed.HashStore(), make_report(config, run, 0), 3, config, run)
    assert time.monotonic() - begin > 0.6


def test_a_first_rank_that_is_not_there_is_told_in_one_line(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment: Any = SimpleNamespace(main_address="127.0.0.1", main_port=port)
    with pytest.raises(LostRankError) as caught:
        open_store(environment, 1, timedelta(seconds=1))
    told = f"rank 1 on node2 cannot reach rank 0 at 127.0.0.1:{port} within 0:00:01: "
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


CONNECT = """
import os, sys
from datetime import timedelta
from torch.distributed import FileStore
from anyscene.cluster.startup import connect

def take_part(rank, ranks, seconds, store):
    store = FileStore(store, ranks)
    store.set_timeout(timedelta(seconds=seconds))
    connect(store, rank, ranks, timedelta(seconds=seconds))
    print("connected")

processes = []
for words in sys.argv[1:]:  # the imports above, once for all, take most of the time
    rank, ranks, seconds, store = words.split(":")
    processes.append(os.fork())
    if not processes[-1]:
        told = os.open(f"{store}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(told, 1)
        os.dup2(told, 2)
        take_part(int(rank), int(ranks), int(seconds), store)
        sys.exit()
for process in processes:
    os.waitpid(process, 0)
"""


@pytest.mark.slow
def test_ranks_connect_or_say_who_could_not(tmp_path):
    """Three processes: a pair, and one whose partner never comes."""
    here = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": str(here), "SLURMD_NODENAME": "node7"}
    ranks = ("0:2:2:alone", "0:2:100:pair", "1:2:100:pair")
    command = [sys.executable, "-c", CONNECT, *ranks]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=200)
    told = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert told["pair-0.txt"] == told["pair-1.txt"] == "connected\n"
    errors = told["alone-0.txt"]
    assert "LostRankError: rank 0 on node7: the first all-reduce of 2 ranks failed" in errors
    assert "check the network between the nodes" in errors
