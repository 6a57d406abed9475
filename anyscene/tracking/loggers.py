"""The tracker beside `metrics.csv`, on rank zero alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.loggers import Logger as LightningLogger

from anyscene.config import Config
from anyscene.config_run import Logger
from anyscene.preemption import RunStopped
from anyscene.tracking.follower import WandbFollower


def build_loggers(config: Config, run: Path, start_step: int) -> list[LightningLogger]:
    """The tracker that `log.logger` names, for a run folder with its `run.json`."""
    match config.log.logger:
        case Logger.none:
            return []
        case Logger.tensorboard:
            # What a killed start has logged beyond its last checkpoint is hidden.
            from anyscene.tracking.tensorboard import TensorBoard  # if it is installed

            return [TensorBoard(run / "logs" / "tensorboard", purge_step=start_step + 1)]
        case Logger.wandb:
            return [WandbFollower(run, config.log.wait_seconds)]


@contextmanager
def followed(loggers: Sequence[LightningLogger]) -> Iterator[None]:
    """A run that W&B may follow: however it ends, W&B gets its last seconds."""
    finished = False
    try:
        yield
        finished = True
    except RunStopped:
        finished = True
        raise
    finally:
        for logger in loggers:
            if isinstance(logger, WandbFollower):
                logger.end(finished)
