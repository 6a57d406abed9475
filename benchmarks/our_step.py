"""The near side of `train_step.py`: what `anyscene train` sets up, timed from within."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from random_base import device, random_bases

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.config import BaseConfig, Config, DataConfig, Precision, TrainConfig
from anyscene.config_run import LogConfig, Logger
from anyscene.cost import GIB, count_step
from anyscene.data.datamodule import SceneDataModule
from anyscene.module import SceneModule
from anyscene.quiet import quiet_libraries
from anyscene.train import build_trainer

ENDLESS = 10**6
"""Steps: the stopwatch stops a run."""


@dataclass(frozen=True)
class Setting:
    """What both sides train on, and for how long."""

    base: Path
    shards: Path
    batch: int
    precision: str = "bf16"
    workers: int = 2
    warm_steps: int = 5  # not timed
    seconds: float = 10.0  # at least so long is timed, and one step


class Stopwatch:
    """Times steps after the first ones."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.steps = 0
        self.started = self.seconds = 0.0

    def is_over(self) -> bool:
        """To be asked after every step. Waits for the device only at the start and when the time
        may be up."""
        self.steps += 1
        timed = self.steps - self.setting.warm_steps
        if timed == 0:
            self.seconds = 0.0
            wait()
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()
        if timed <= 0 or time.perf_counter() - self.started < self.setting.seconds:
            return False
        wait()
        self.seconds = time.perf_counter() - self.started
        return True

    def figures(self) -> dict[str, Any]:
        """Images a second, and the peak of a GPU's memory (None on a CPU), while timed."""
        timed = self.steps - self.setting.warm_steps
        peak = torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None
        return {
            "images_per_second": timed * self.setting.batch / self.seconds,
            "peak_gib": peak,
            "timed_steps": timed,
            "seconds_a_step": self.seconds / timed,
        }


class StopAfter(Callback):
    """Ends a run by its stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        trainer.should_stop = self.watch.is_over()


def run_config(setting: Setting, folder: Path, **train: Any) -> Config:
    """A run with the defaults of `anyscene train` but for what is in `train`."""
    return Config(
        name="run",
        runs_dir=str(folder),
        base=BaseConfig(path=str(setting.base)),
        data=DataConfig(
            train=str(setting.shards), batch_size=setting.batch, workers=setting.workers
        ),
        train=TrainConfig(
            steps=ENDLESS, warmup_steps=1, precision=Precision[setting.precision], **train
        ),
        log=LogConfig(logger=Logger.none, progress_bar=False),
    )


def counted_gib(setting: Setting, size: int, train: dict[str, Any]) -> float:
    """GiB at the worst moment of a step with the options `train`, as `anyscene train --dry-run`
    counts them for scenes of `size` pixels: with the first stage, and without CUDA's context."""
    return count_step(run_config(setting, Path(), **train), (size, size)).peak / GIB


def measure_ours(setting: Setting, train: dict[str, Any]) -> dict[str, Any]:
    """Speed and peak memory of a run with the options `train`, but for its checkpoint at the end,
    of gigabytes, which is written beside a training, not in it."""
    quiet_libraries()
    torch.set_float32_matmul_precision("high")
    watch = Stopwatch(setting)
    with TemporaryDirectory() as folder, random_bases():
        config = run_config(setting, Path(folder), **train)
        run = Path(folder) / config.name
        run.mkdir()
        csv = MetricsCsv(run / "metrics.csv")
        csv.start_at(0)
        with device():
            module = SceneModule(config)
        data = SceneDataModule(config.data, seed=config.train.seed)
        trainer = build_trainer(config, csv, run, 0)
        callbacks: list[Callback] = [*trainer.callbacks, StopAfter(watch)]  # pyright: ignore
        trainer.callbacks = [one for one in callbacks if not isinstance(one, Checkpoints)]  # pyright: ignore
        trainer.fit(module, data)
    return watch.figures()


def wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
