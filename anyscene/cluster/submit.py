"""Job scripts from a configuration, and their submission to SLURM. No torch here."""

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from anyscene.config import Config
from anyscene.config_io import save_config
from anyscene.config_run import ClusterConfig
from anyscene.errors import InputError

TEMPLATES = Path(__file__).resolve().parents[2] / "slurm"
HOLD = ["env", "--block-signal=USR1,USR2,TERM"]
"""Signals wait from the first instruction on, and training looks at them (GNU coreutils 8.31)."""


@dataclass(frozen=True)
class Job:
    """What a template is filled with, beside `ClusterConfig`."""

    template: str
    name: str
    folder: Path
    """Where the job runs, as does the command that submits it."""
    log: Path
    command: str
    nodes: int = 1
    tasks: int = 1
    """Tasks a node."""
    gpus: int = 0
    """GPUs a node."""
    array: str = ""
    parts: int = 0
    """Elements of an array that share one work."""
    marker: str = ""
    """The file that asks for another start, with SLURM's variables."""


def train_job(config: Config, config_file: Path, seeds: str = "") -> Job:
    """The training of a configuration saved in `config_file`, or an array with a run a seed."""
    command = [*call(config.cluster, held=True), "train", str(config_file)]
    script = shlex.join(command)
    if seeds:
        script += f" name={config.name}-$SLURM_ARRAY_TASK_ID train.seed=$SLURM_ARRAY_TASK_ID"
    logs = log_folder(config)
    return Job(
        "train.sbatch.j2",
        config.name,
        Path.cwd(),
        logs / ("slurm-%A_%a.out" if seeds else "slurm-%j.out"),
        script,
        nodes=config.train.nodes,
        tasks=config.train.devices,
        gpus=gpus_of(config),
        array=seeds,
        marker=shlex.quote(str(logs)) + "/requeue-$SLURM_JOB_ID",
    )


def array_job(config: Config, name: str, words: str, parts: int, gpus: int) -> Job:
    """A command of `anyscene` that takes its part of the work by `--shard-index` and
    `--num-shards`, as an array of so many parts on one node each."""
    return Job(
        "array.sbatch.j2",
        f"{config.name}-{name}",
        Path.cwd(),
        log_folder(config) / "slurm-%A_%a.out",
        shlex.join([*call(config.cluster), *shlex.split(words)]),
        gpus=gpus,
        array=f"0-{parts - 1}",
        parts=parts,
    )


def call(cluster: ClusterConfig, held: bool = False) -> list[str]:
    """How a node calls `anyscene`."""
    hold = HOLD if held and knows_block_signal() else []
    inside = shlex.split(cluster.container or "")
    return [*hold, *inside, cluster.python or sys.executable, "-m", "anyscene.cli"]


def knows_block_signal() -> bool:
    """Whether `env` here can block signals; without it one in a start's first second kills."""
    done = subprocess.run([*HOLD, "true"], capture_output=True, check=False)
    return done.returncode == 0


def gpus_of(config: Config) -> int:
    """GPUs a node that the configuration asks for."""
    return config.train.devices if config.cluster.gpus is None else config.cluster.gpus


def log_folder(config: Config) -> Path:
    """Where a run's logs and job scripts are."""
    return (Path(config.runs_dir) / config.name / "logs").absolute()


def render(job: Job, cluster: ClusterConfig) -> str:
    """The job script."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(job.template).render(job=job, cluster=cluster)


def freeze(config: Config) -> Path:
    """Save the configuration beside the logs, so that later changes of its source do not reach a
    requeued job; the GPUs asked for are in it, so that each start checks them."""
    folder = log_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + len(list(folder.glob("submit-*.yaml")))
    path = folder / f"submit-{number}.yaml"
    save_config(replace(config, cluster=replace(config.cluster, gpus=gpus_of(config))), path)
    return path


def submit(script: str, log: Path) -> str:
    """Hand a script to SLURM; returns the job's id.

    Raises:
        InputError: there is no `sbatch` here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch here: submit on a cluster's login node, or --dry-run")
    log.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = " ".join(done.stderr.replace("sbatch: error:", "").split())
        raise InputError(f"sbatch refuses the job: {reason}")
    return done.stdout.strip().partition(";")[0]
