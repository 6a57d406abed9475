"""Which process this is, as each of those says who starts it."""

import platform

import pytest

from anyscene.ranks import is_first_process, local_rank, node_name, place

NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "SLURM_LOCALID", "SLURMD_NODENAME")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "first", "local"),
    [
        ({}, True, 0),
        ({"LOCAL_RANK": "1"}, False, 1),  # started by Lightning
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False, 0),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False, 0),  # by torchrun
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, 0),
        ({"SLURM_PROCID": "5", "SLURM_LOCALID": "1"}, False, 1),  # by srun
        ({"SLURM_PROCID": "4", "SLURM_LOCALID": "0"}, False, 0),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True, 0),
    ],
)
def test_ranks_of_all_who_start_processes(variables, first, local, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (is_first_process(), local_rank()) == (first, local)


def test_an_error_of_another_rank_names_it_and_its_node(monkeypatch):
    assert (place(), node_name()) == ("", platform.node())
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    assert place() == "rank 3 on node7: "
