"""Job scripts from a configuration, and their submission to SLURM. No torch here."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import count
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
    log: str
    """With SLURM's patterns: `%%` is a sign of per cent."""
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
        name = shlex.quote(f"name={config.name}-")
        script += f" {name}$SLURM_ARRAY_TASK_ID train.seed=$SLURM_ARRAY_TASK_ID"
    logs = log_folder(config)
    return Job(
        "train.sbatch.j2",
        config.name,
        Path.cwd(),
        pattern(logs, "slurm-%A_%a.out" if seeds else "slurm-%j.out"),
        script,
        nodes=config.train.nodes,
        tasks=config.train.devices,
        gpus=gpus_of(config),
        array=seeds,
        marker=shlex.quote(str(logs)) + "/requeue-$SLURM_JOB_ID",
    )


def array_job(config: Config, name: str, words: str, parts: int, gpus: int) -> Job:
    """A command of `anyscene` that takes its part of the work by `--shard-index` and
    `--num-shards`, as an array of so many parts on one node each.

    Raises `InputError` where there is no part, or the words are no command line.
    """
    if parts < 1:
        raise InputError(f"--parts {parts} must be at least 1")
    return Job(
        "array.sbatch.j2",
        f"{config.name}-{name}",
        Path.cwd(),
        pattern(log_folder(config), "slurm-%A_%a.out"),
        shlex.join([*call(config.cluster), *words_of(f"--{name}", words)]),
        gpus=gpus,
        array=f"0-{parts - 1}",
        parts=parts,
    )


def call(cluster: ClusterConfig, held: bool = False) -> list[str]:
    """How a node calls `anyscene`."""
    hold = HOLD if held and knows_block_signal() else []
    inside = words_of("cluster.container", cluster.container or "")
    return [*hold, *inside, cluster.python or sys.executable, "-m", "anyscene.cli"]


def words_of(key: str, text: str) -> list[str]:
    """Words as a shell takes them. Raises `InputError` that names the key where it could not."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"{key} {text!r} is no command line: {error}") from None


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


def quoted(value: object) -> str:
    """A value in a line of `#SBATCH`, which has words, quotes and backslashes of its own.

    Raises `InputError` where it has more than one line.
    """
    text = str(value)
    if any(not letter.isprintable() for letter in text):
        raise InputError(f"{text!r} cannot be in a job script: it must be one line of text")
    if set(text).isdisjoint(" \"'\\#"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pattern(folder: Path, name: str) -> str:
    """A file with SLURM's patterns, as `%j`, in its name alone."""
    return str(folder).replace("%", "%%") + f"/{name}"


def log_file(log: str, number: str) -> Path:
    """The log of a job; of an array with the pattern of the element's number."""
    return Path(re.sub("%[jA%]", lambda match: number if match[0] != "%%" else "%", log))


def render(job: Job, cluster: ClusterConfig) -> str:
    """The job script. Raises `InputError` where a value cannot be in one."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    return environment.get_template(job.template).render(job=job, cluster=cluster)


def freeze(config: Config) -> Path:
    """Save the configuration beside the logs, so that later changes of its source do not reach a
    requeued job; the GPUs asked for are in it, so that each start checks them."""
    folder = log_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    names = (folder / f"submit-{number}.yaml" for number in count(1))
    path = next(name for name in names if claimed(name))
    save_config(replace(config, cluster=replace(config.cluster, gpus=gpus_of(config))), path)
    return path


def claimed(path: Path) -> bool:
    """Whether a file is new, and this process's: another's would change under a waiting job."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def submit(script: str, logs: Path) -> str:
    """Hand a script to SLURM, whose log will be in `logs`; returns the job's id.

    Raises:
        InputError: there is no `sbatch` here, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise InputError("there is no sbatch here: submit on a cluster's login node, or --dry-run")
    logs.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = " ".join(done.stderr.replace("sbatch: error:", "").split())
        raise InputError(f"sbatch refuses the job: {reason}")
    return done.stdout.strip().partition(";")[0]
