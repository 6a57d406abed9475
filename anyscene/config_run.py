"""Configuration of how a run is run, whatever it trains: what it logs, where, and for debugging."""

from dataclasses import dataclass, field
from enum import Enum


class Logger(Enum):
    """Where figures go beside `metrics.csv`, which is always written."""

    none = "none"
    wandb = "wandb"
    tensorboard = "tensorboard"


@dataclass
class LogConfig:
    """Tracking."""

    every: int = 50
    """Steps between logged figures. > 0."""
    logger: Logger = Logger.wandb
    """W&B runs offline by itself when nobody is logged in."""
    project: str = "anyscene"
    """W&B project."""
    wait_seconds: float = 30.0
    """How long a run that ends waits for W&B to upload what is left, and its start for an answer;
    training itself never waits. > 0."""
    progress_bar: bool = True
    """A bar with the time left."""


@dataclass
class ClusterConfig:
    """Where `anyscene submit` sends a run, and how its ranks wait for each other."""

    partition: str | None = None
    """SLURM's partition; null: the cluster's default, as for the next two."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    gpus: int | None = None
    """GPUs a node, `train.devices` of which are used; null: `train.devices`. 0: CPU nodes."""
    cpus: int = 8
    """CPU cores a task, for its loader processes. > 0."""
    memory: str | None = None
    """Memory a node, such as `240G`; null: the cluster's default."""
    time: str = "24:00:00"
    """Time limit of one start, in SLURM's form; a run that needs more is requeued."""
    stop_seconds: int = 300
    """A run is asked to stop and save so long before its time limit. > 0."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the run: `module load ...`, `source .../activate`."""
    container: str | None = None
    """What the command is put behind, such as `apptainer exec --nv image.sif`."""
    python: str | None = None
    """Interpreter on the nodes; null: the one that submits."""
    sbatch: list[str] = field(default_factory=list)
    """More options of `sbatch`, such as `--constraint=h100`."""
    timeout_minutes: float = 10.0
    """Longest wait of a rank for the others, at the start and in training. > 0."""


@dataclass
class DebugConfig:
    """Tools for finding out why a run does not learn."""

    overfit: int = 0
    """Train on the first n samples only (1 or 4), to see them learnt by heart: the last checkpoint
    leaves `samples/step-XXXXXXXX/overfit.png`. 0: off."""
