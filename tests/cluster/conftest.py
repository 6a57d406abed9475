"""One real Slurm for all tests of this folder, or a reason why there is none."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import scenarios
from scenarios import Lab, Scenario
from slurm_jobs import CLOSING, REPOSITORY, Cluster, Job
from tiny import tiny_base, tiny_config, tiny_demo

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "ip", "unshare", "nsenter")
STEPS = 8
AT_A_TIME = 3  # of two nodes each: while one waits for Slurm, two can run
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
    "cluster.timeout_minutes=4",
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
        command = [sys.executable, "-m", "anyscene.cli", "submit", config_file, *options, *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        number = done.stdout.splitlines()[0].removeprefix("job: ")
        return Job(cluster, number, runs / name, notes)

    return submit_run


@pytest.fixture(scope="session")
def crew(
    request: pytest.FixtureRequest, cluster: Cluster, submit: Callable[..., Job]
) -> Iterator[dict[Scenario, Future[Job]]]:
    """The scenarios of all tests that shall run, several at a time; their jobs by scenario."""
    lab = Lab(cluster, submit)
    pool = ThreadPoolExecutor(AT_A_TIME)
    params = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = [spec.params["job"] for spec in params if spec is not None and "job" in spec.params]
    yield {scenario: pool.submit(scenario, lab) for scenario in [scenarios.reference, *wanted]}
    CLOSING.set()  # lets threads that wait end
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def job(request: pytest.FixtureRequest, crew: dict[Scenario, Future[Job]]) -> Job:
    """The job of a test's scenario, once it has ended."""
    return crew[request.param].result()


@pytest.fixture
def reference(crew: dict[Scenario, Future[Job]]) -> Job:
    """The run that nothing disturbs."""
    return crew[scenarios.reference].result()
