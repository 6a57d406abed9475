"""What a checkpoint costs the step that saves it, against `torch.save` in the training process.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint_stall.py

One process trains a stack of linear layers whose checkpoint (weights, average, Adam's two moments)
has the wanted size, as `anyscene train` sets it up: with its own checkpoints, which a thread copies
in memory, until the next optimizer step, and writes; with the same, but waiting for the copy before
the next step begins; and with `torch.save` before it, which neither makes a checksum nor waits for
the disk. Told are a step's time (the median of those before), how long training waits for the save
and then for the copy, and what the steps after it take more while a thread writes, which on a busy
CPU is much. Rounds of all alternate.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from overhead import NullModule, null_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.checkpoint import AtomicCheckpointIO
from anyscene.config import Config, TrainConfig
from anyscene.config_run import LogConfig, Logger
from anyscene.quiet import quiet_libraries
from anyscene.train import build_trainer

WIDTH = 1024
BYTES = 16  # of a trained parameter in a checkpoint
WARM_STEPS = 3  # not looked at
STEPS = 8  # that are; the last one of them saves


class Stack(NullModule):
    """Linear layers."""

    def __init__(self, config: Config, layers: int) -> None:
        super().__init__(config)
        self.trained = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(layers)])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        self.begun.append((time.perf_counter(), time.process_time()))
        return self.trained(batch["scene"]).square().mean()


class Batches(IterableDataset):
    """The same batch for ever."""

    def __init__(self, rows: int) -> None:
        self.batch = {"scene": torch.ones(rows, WIDTH), "key": ["0"] * rows}

    def __iter__(self) -> Any:
        while True:
            yield self.batch


OWN_SAVE = AtomicCheckpointIO.save_checkpoint


def save_and_wait(io: AtomicCheckpointIO, *given: Any, **options: Any) -> None:
    """The copy is made before training goes on."""
    OWN_SAVE(io, *given, **options)
    io.copied.wait()


def save_at_once(io: AtomicCheckpointIO, state: dict[str, Any], path: Path, **_: Any) -> None:
    """As one writes it oneself."""
    io._join()
    path.parent.mkdir(exist_ok=True)
    torch.save(state, path)


VARIANTS: dict[str, Any] = {
    "anyscene": OWN_SAVE,
    "copy at once": save_and_wait,
    "torch.save": save_at_once,
}


@dataclass(frozen=True)
class Taken:
    """Seconds of a run: each step, the call that saves, and then the wait for the copy."""

    steps: list[float]
    save: float
    wait: float


def timed(of: Any, name: str, found: list[float]) -> Any:
    """Note how long each call of a method takes; returns what it was."""
    method = getattr(of, name)

    def call(*words: Any, **options: Any) -> None:
        begin = time.perf_counter()
        method(*words, **options)
        found.append(time.perf_counter() - begin)

    setattr(of, name, call)
    return method


def train(config: Config, folder: Path, layers: int, rows: int) -> Taken:
    """One run, and what it took."""
    csv = MetricsCsv(folder / "metrics.csv")
    csv.start_at(0)
    module = Stack(config, layers)
    saves: list[float] = []
    waits: list[float] = []
    save, wait = (
        timed(Checkpoints, "_save", saves),
        timed(AtomicCheckpointIO, "wait_for_copy", waits),
    )
    try:
        loader = DataLoader(Batches(rows), batch_size=None)
        build_trainer(config, csv, folder, 0).fit(module, loader)
    finally:
        Checkpoints._save, AtomicCheckpointIO.wait_for_copy = save, wait
    begun = [wall for wall, _ in module.begun]
    steps = [end - begin for begin, end in itertools.pairwise(begun)]
    return Taken(steps[WARM_STEPS:], saves[0], max(waits[WARM_STEPS:]))


def measure(gigabytes: float, rounds: int, rows: int, after: int) -> dict[str, list[Taken]]:
    """What each variant took, by round."""
    quiet_libraries()
    warnings.filterwarnings("ignore")
    layers = max(1, round(gigabytes * 1e9 / BYTES / (WIDTH * WIDTH + WIDTH)))
    taken: dict[str, list[Taken]] = {name: [] for name in VARIANTS}
    saves = WARM_STEPS + STEPS
    for _ in range(rounds):
        for name, found in taken.items():
            with tempfile.TemporaryDirectory() as folder:
                config = null_config(
                    folder,
                    TrainConfig(steps=saves + after, warmup_steps=0, checkpoint_every=saves),
                    LogConfig(logger=Logger.none, progress_bar=False),
                )
                AtomicCheckpointIO.save_checkpoint = VARIANTS[name]
                found.append(train(config, Path(folder), layers, rows))
    return taken


def table(taken: dict[str, list[Taken]]) -> str:
    """Medians over the rounds, in milliseconds."""
    heads = ("step", "save", "wait", "in steps", "steps after")
    lines = [f"{'ms':<14}" + "".join(f"{head:>12}" for head in heads)]
    for name, rounds in taken.items():
        rows = []
        for run in rounds:
            usual, after = statistics.median(run.steps[: STEPS - 1]), run.steps[STEPS:]
            stall = (run.save + run.wait) / usual
            extra = sum(after) - usual * len(after)
            rows.append((1e3 * usual, 1e3 * run.save, 1e3 * run.wait, stall, 1e3 * extra))
        values = [statistics.median(column) for column in zip(*rows, strict=True)]
        lines.append(f"{name:<14}" + "".join(f"{value:>12.2f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of a checkpoint")
    parser.add_argument("--rows", type=int, default=128, help="of a batch: more make a step longer")
    parser.add_argument("--after", type=int, default=8, help="steps after the one that saves")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(table(measure(options.gigabytes, options.rounds, options.rows, options.after)))


if __name__ == "__main__":
    main()
