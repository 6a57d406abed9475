"""What training costs beside the model: a step of a null model against a hand-written loop.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py

Two processes, data parallel over gloo, take steps of a linear layer: in a loop written by hand;
with Lightning's bare Trainer; as `anyscene train` sets it up, with all default callbacks, logging
every `log.every` steps; and with what Lightning offers for the same: CSVLogger, progress bar,
learning rate monitor and checkpoints, the loss logged by `self.log`. All clip the gradient. The
average of the weights, and the agreement of the ranks about stops, are in ours alone. Rounds of all
four alternate, and each gives a ratio, so that a busy machine slows all of them. CPU time, of all
threads of a process, is what remains comparable on a very busy one; it does not count waiting for
the other process.
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

from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.config import BaseConfig, Config, DataConfig, TrainConfig
from anyscene.config_run import LogConfig, Logger
from anyscene.metrics.denoising import DenoisingLoss
from anyscene.module import SceneModule
from anyscene.quiet import quiet_libraries
from anyscene.strategies import build_ddp
from anyscene.train import build_trainer, rank_timeout

Clocks = tuple[float, float]
"""Seconds of wall-clock and of CPU time."""

RANKS = 2
WIDTH = 64
WARM_STEPS = 50  # of each round, not timed


def clocks() -> Clocks:
    return time.perf_counter(), time.process_time()


def null_config(folder: str, train: TrainConfig, log: LogConfig) -> Config:
    """A run of a `NullModule`, which reads neither base nor data."""
    base, data = BaseConfig(path="null"), DataConfig(train="null")
    return Config(name="null", runs_dir=folder, base=base, data=data, train=train, log=log)


class NullModule(SceneModule):
    """A linear layer in the place of the networks; it notes when each step begins."""

    def __init__(self, config: Config, log: bool = False) -> None:
        super(SceneModule, self).__init__()
        self.config = config
        self.log_loss = log
        self.trained = nn.Linear(WIDTH, WIDTH)
        self.injection = self.averaged = None
        self.base_sha256 = "null"
        self.is_fast = True
        self.denoising = DenoisingLoss()
        self.begun: list[Clocks] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        self.begun.append(clocks())
        loss = self.trained(batch["scene"]).square().mean()
        if self.log_loss:
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        return batch

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """There is no data whose identity it could hold."""


class Batches(IterableDataset):
    """The same batch for ever."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batch = {"scene": torch.ones(4, WIDTH), "key": ["0", "1", "2", "3"]}
        while True:
            yield batch


def by_hand(config: Config, folder: Path) -> list[Clocks]:  # noqa: ARG001
    """What one writes without a framework."""
    module = NullModule(config)
    wrapped = DistributedDataParallel(module.trained)
    [optimizer], [schedule] = module.configure_optimizers()
    for number, batch in enumerate(DataLoader(Batches(), batch_size=None)):
        if number == config.train.steps:
            break
        module.begun.append(clocks())
        loss = wrapped(batch["scene"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.trained.parameters(), config.train.clip_norm)
        optimizer.step()
        schedule["scheduler"].step()
    return module.begun


def fit(trainer: Trainer, module: NullModule) -> list[Clocks]:
    """Train, and return when each step began."""
    trainer.fit(module, DataLoader(Batches(), batch_size=None))
    return module.begun


def bare(config: Config, folder: Path) -> list[Clocks]:
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


def ours(config: Config, folder: Path) -> list[Clocks]:
    """As `anyscene train` does it."""
    csv = MetricsCsv(folder / "metrics.csv")
    csv.start_at(0)
    return fit(build_trainer(config, csv, folder, 0), NullModule(config))  # it clips itself


def lightning(config: Config, folder: Path) -> list[Clocks]:
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
    """What Lightning's trainers are told."""
    return {
        "accelerator": "cpu",
        "devices": RANKS,
        "strategy": build_ddp(rank_timeout(config)),
        "max_steps": config.train.steps,
        "gradient_clip_val": config.train.clip_norm,
        "log_every_n_steps": config.log.every,
        "use_distributed_sampler": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }


LOOP, BARE, OURS, STOCK = "loop by hand", "bare Trainer", "anyscene", "Lightning's set"
VARIANTS: dict[str, Callable[[Config, Path], list[Clocks]]] = {
    LOOP: by_hand,
    BARE: bare,
    OURS: ours,
    STOCK: lightning,
}


def measure(steps: int, rounds: int) -> list[dict[str, Clocks]]:
    """On this rank: milliseconds a step of every variant, for each round."""
    distributed.init_process_group("gloo")
    quiet_libraries()
    warnings.filterwarnings("ignore")
    times = []
    with tempfile.TemporaryDirectory() as folder:
        config = null_config(
            folder,
            TrainConfig(steps=WARM_STEPS + steps, devices=RANKS, warmup_steps=0),
            LogConfig(logger=Logger.none),
        )
        for number in range(rounds):
            taken = {}
            for name, variant in VARIANTS.items():
                distributed.barrier()
                place = Path(folder, f"{number}-{os.environ['LOCAL_RANK']}", name)
                place.mkdir(parents=True)
                begun = variant(config, place)
                count = len(begun) - 1 - WARM_STEPS
                pairs = zip(begun[-1], begun[WARM_STEPS], strict=True)
                taken[name] = tuple(1e3 * (last - first) / count for last, first in pairs)
            times.append(taken)
    return times


def run_ranks(arguments: list[str]) -> list[dict[str, Clocks]]:
    """Start the ranks; what rank zero measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(RANKS)}
    place["CUDA_VISIBLE_DEVICES"] = ""  # a GPU's waits would hide what the CPU does
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


def table(times: list[dict[str, Clocks]]) -> str:
    """Medians over the rounds, and what comes on top of the loop and of the bare Trainer."""
    heads = ("ms a step", "over loop", "over bare", "CPU ms", "over loop", "over bare")
    lines = [f"{'':<16}" + "".join(f"{head:>11}" for head in heads)]
    for name in VARIANTS:
        line = f"{name:<16}"
        for clock in (0, 1):
            line += f"{statistics.median(t[name][clock] for t in times):>11.2f}"
            for below in (LOOP, BARE):
                line += f"{statistics.median(over(t, name, below, clock) for t in times):>11.2f}"
        lines.append(line)
    return "\n".join([*lines, *(share(times, below, c) for below in (LOOP, BARE) for c in (0, 1))])


def over(taken: dict[str, Clocks], name: str, below: str, clock: int) -> float:
    """Milliseconds a step that a variant takes on top of another one."""
    return taken[name][clock] - taken[below][clock]


def share(times: list[dict[str, Clocks]], below: str, clock: int) -> str:
    """Our cost over a variant as a share of that of Lightning's set."""
    shares = sorted(over(t, OURS, below, clock) / over(t, STOCK, below, clock) for t in times)
    kind = ("time", "CPU time")[clock]
    return (
        f"{OURS}'s {kind} over the {below} is {statistics.median(shares):.2f} times that of "
        f"{STOCK} (rounds: {shares[0]:.2f} to {shares[-1]:.2f})"
    )


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
