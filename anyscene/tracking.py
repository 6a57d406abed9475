"""The tracker beside `metrics.csv`: W&B or TensorBoard, on rank zero alone."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger as LightningLogger
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from anyscene.config import Config, Logger


def build_loggers(config: Config, run: Path) -> list[LightningLogger]:
    """The tracker that `log.logger` names, for a run folder with its `run.json`."""
    match config.log.logger:
        case Logger.none:
            return []
        case Logger.tensorboard:
            return [TensorBoardLogger(run, name="logs", version="tensorboard")]
        case Logger.wandb:
            return [build_wandb(config, run)]


def build_wandb(config: Config, run: Path) -> WandbLogger:
    """W&B in the run folder, with the run's own id, so that a resumed run goes on there.

    It is offline as `WANDB_MODE` says, where nobody is logged in, and where W&B cannot be reached.
    """
    import wandb
    from wandb.errors import Error

    silent = wandb.Settings(silent=True)
    mode: Any = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False) else "offline"
    )
    options: dict[str, Any] = {
        "id": json.loads((run / "run.json").read_text())["wandb_id"],
        "name": config.name,
        "project": config.log.project,
        "dir": str(run),
        "resume": "allow",
    }
    try:
        experiment = wandb.init(**options, mode=mode, settings=None if mode == "online" else silent)
    except Error as error:
        reason = " ".join(str(error).split())
        print(f"WARNING: W&B cannot be used ({reason}); the run goes on offline", file=sys.stderr)
        mode = "offline"
        experiment = wandb.init(**options, mode=mode, settings=silent)
    if mode == "offline":
        print(f"W&B is offline; to upload later: wandb sync {run}/wandb/offline-run-*")
    experiment.define_metric("trainer/global_step")
    experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=experiment, save_dir=run)


def finish_loggers(loggers: list[LightningLogger]) -> None:
    """Let W&B write what is left, so that the process may start another run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
