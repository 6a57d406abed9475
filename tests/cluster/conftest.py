"""One real Slurm for all tests of this folder, or a reason why there is none."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_jobs import REPOSITORY, Cluster, Job
from tiny import tiny_base, tiny_config, tiny_demo

from anyscene.cli import main

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "ip", "unshare", "nsenter")
STEPS = 8
PATHS = ":".join(str(REPOSITORY / part) for part in ("", "tests", "tests/cluster"))
OPTIONS = (
    f"train.steps={STEPS}",
    "train.checkpoint_every=3",
    "train.validate_every=4",
    "train.prompt_dropout=0.5",
    "data.batch_size=4",
    "data.val_samples=2",
    "log.every=1",
    "sample.steps=2",
    "cluster.cpus=1",
    "cluster.sbatch=[--exclusive]",
    "cluster.time=10",
    "cluster.timeout_minutes=2",
    f"cluster.setup=[export PYTHONPATH={PATHS} OMP_NUM_THREADS=1 WANDB_MODE=offline]",
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Four nodes."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs Slurm: apt-get install slurm-wlm munge iproute2 (no {missing[0]})")
    if os.geteuid():
        pytest.skip("needs root: each node has namespaces of its own")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # pytest's are closed to munge
        running = Cluster.up(Path(folder))
        yield running
        running.down()


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration, beside the runs made of it."""
    data = tmp_path_factory.mktemp("cluster-data")
    shards = tiny_demo(data / "demo").joinpath("shards")
    folder = tmp_path_factory.mktemp("cluster-runs")
    tiny_config(tiny_base(data / "base"), shards, folder)
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def submit(cluster: Cluster, config_file: Path) -> Callable[..., Job]:
    """Submit a run as a user does, with a recorder in place of the command line."""

    def submit_run(name: str, *words: str, holds: str = "") -> Job:
        runs = config_file.parent
        notes = runs / f"notes-{name}"
        notes.mkdir(exist_ok=True)
        python = notes / "python"  # called as `python -m anyscene.cli ...`
        python.write_text(
            f'#!/bin/sh\nshift 2\nHOLDS="{holds}" exec {sys.executable} -m recorder {notes} "$@"\n'
        )
        python.chmod(0o755)
        options = [*OPTIONS, f"name={name}", f"cluster.python={python}", "--gpus", "0"]
        if "--nodes" not in words:
            options += ["--nodes", "2", "--tasks", "1"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["submit", str(config_file), *options, *words]) == 0
        number = printed.getvalue().splitlines()[0].removeprefix("job: ")
        return Job(cluster, number, runs / name, notes)

    return submit_run


@pytest.fixture(scope="session")
def reference(submit: Callable[..., Job]) -> Job:
    """The run that nothing disturbs."""
    job = submit("reference")
    job.finish()
    return job
