"""What training costs beside the model: a step of a null model against a hand-written loop.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py

Two processes, data parallel over gloo, take steps of a linear layer: in a loop written by hand;
with Lightning's bare Trainer; as `anyscene train` sets it up, with all default callbacks, logging
every `log.every` steps; and with what Lightning offers for the same: CSVLogger, progress bar,
learning rate monitor and checkpoints, the loss logged by `self.log`. The average of the weights,
and the agreement of the ranks about stops, are in ours alone. Rounds of all four alternate, and
each gives a ratio, so that a busy machine slows all of them.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics import MeanMetric

from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.config import BaseConfig, Config, DataConfig, LogConfig, Logger, TrainConfig
from anyscene.module import SceneModule
from anyscene.quiet import quiet_libraries
from anyscene.train import build_ddp, build_trainer, rank_timeout

RANKS = 2
WIDTH = 64
WARM_STEPS = 50  # of each round, not timed


class NullModule(SceneModule):
    """A linear layer in the place of the networks; it notes when each step begins."""

    def __init__(self, config: Config, log: bool = False) -> None:
        super(SceneModule, self).__init__()
        self.config = config
        self.log_loss = log
        self.trained = nn.Linear(WIDTH, WIDTH)
        self.injection = self.averaged = self.gradient_norm = None
        self.base_sha256 = "null"
        self.validation_loss = MeanMetric()
        self.begun: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        self.begun.append(time.perf_counter())
        loss = self.trained(batch).square().mean()
        if self.log_loss:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        return batch

    def fixed_values(self) -> dict[str, Any]:
        return {}


class Batches(IterableDataset):
    """The same batch for ever."""

    def __iter__(self) -> Iterator[Tensor]:
        batch = torch.ones(4, WIDTH)
        while True:
            yield batch


def by_hand(config: Config, folder: Path) -> list[float]:  # noqa: ARG001
    """What one writes without a framework."""
    module = NullModule(config)
    wrapped = DistributedDataParallel(module.trained)
    [optimizer], [schedule] = module.configure_optimizers()
    for number, batch in enumerate(DataLoader(Batches(), batch_size=None)):
        if number == config.train.steps:
            break
        module.begun.append(time.perf_counter())
        loss = wrapped(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.trained.parameters(), config.train.clip_norm)
        optimizer.step()
        schedule["scheduler"].step()
    return module.begun


def fit(trainer: Trainer, module: NullModule) -> list[float]:
    """Train, and return when each step began."""
    trainer.fit(module, DataLoader(Batches(), batch_size=None))
    return module.begun


def bare(config: Config, folder: Path) -> list[float]:
    """Lightning's Trainer with nothing in it."""
    return fit(
        Trainer(
            **common(config, folder),
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
        ),
        NullModule(config),
    )


def ours(config: Config, folder: Path) -> list[float]:
    """As `anyscene train` does it."""
    csv = MetricsCsv(folder / "metrics.csv")
    csv.start_at(0)
    return fit(build_trainer(config, csv, folder, 0), NullModule(config))


def lightning(config: Config, folder: Path) -> list[float]:
    """Lightning's own parts for figures, bar, learning rate and checkpoints."""
    callbacks = [
        TQDMProgressBar(),
        LearningRateMonitor("step"),
        ModelCheckpoint(
            folder / "lightning", every_n_train_steps=config.train.checkpoint_every, save_last=True
        ),
    ]
    trainer = Trainer(
        **common(config, folder), logger=CSVLogger(folder / "csv"), callbacks=callbacks
    )
    return fit(trainer, NullModule(config, log=True))


def common(config: Config, folder: Path) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "accelerator": "cpu",
        "devices": RANKS,
        "strategy": build_ddp(rank_timeout(config)),
        "max_steps": config.train.steps,
        "log_every_n_steps": config.log.every,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }


VARIANTS: dict[str, Callable[[Config, Path], list[float]]] = {
    "loop by hand": by_hand,
    "bare Trainer": bare,
    "anyscene": ours,
    "Lightning's set": lightning,
}


def measure(steps: int, rounds: int) -> list[dict[str, float]]:
    """On this rank: milliseconds a step of every variant, for each round."""
    distributed.init_process_group("gloo")
    quiet_libraries()
    warnings.filterwarnings("ignore")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            name="overhead",
            runs_dir=folder,
            base=BaseConfig(path="null"),
            data=DataConfig(train="null"),
            train=TrainConfig(steps=WARM_STEPS + steps, devices=RANKS, warmup_steps=0),
            log=LogConfig(logger=Logger.none),
        )
        for number in range(rounds):
            taken = {}
            for name, variant in VARIANTS.items():
                distributed.barrier()
                place = Path(folder, f"{number}-{os.environ['LOCAL_RANK']}", name)
                place.mkdir(parents=True)
                begun = variant(config, place)
                taken[name] = 1e3 * (begun[-1] - begun[WARM_STEPS]) / (len(begun) - 1 - WARM_STEPS)
            times.append(taken)
    return times


def run_ranks(arguments: list[str]) -> list[dict[str, float]]:
    """Start the ranks; what rank zero measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(RANKS)}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, *arguments],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        outputs = [rank.communicate() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        if rank.returncode:
            raise RuntimeError(errors)
    return json.loads(outputs[0][0].splitlines()[-1])


def table(times: list[dict[str, float]]) -> str:
    """Medians over the rounds, and what comes on top of the loop by hand."""
    lines = [f"{'':<16}{'ms a step':>11}{'over the loop':>15}{'ratio to it':>13}"]
    for name in VARIANTS:
        step = statistics.median(t[name] for t in times)
        over = statistics.median(t[name] - t["loop by hand"] for t in times)
        ratio = statistics.median(t[name] / t["loop by hand"] for t in times)
        lines.append(f"{name:<16}{step:>11.2f}{over:>15.2f}{ratio:>13.2f}")
    shares = sorted(
        (t["anyscene"] - t["loop by hand"]) / (t["Lightning's set"] - t["loop by hand"])
        for t in times
    )
    lines.append(
        f"anyscene's cost over the loop is {statistics.median(shares):.2f} times that of "
        f"Lightning's set (rounds: {shares[0]:.2f} to {shares[-1]:.2f})"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="timed steps of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if "LOCAL_RANK" in os.environ:
        print(f"\n{json.dumps(measure(options.steps, options.rounds))}")
        return
    print(table(run_ranks(sys.argv[1:])))


if __name__ == "__main__":
    main()
