"""What the tests of training share: a run through the command line, and what it leaves behind."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config

from anyscene.callbacks.metrics_csv import read_metrics
from anyscene.cli import main
from anyscene.metrics.judge import ClassMeans, Judge
from anyscene.metrics.segmenter import SmallSegmenter
from anyscene.metrics.truth import Labels
from anyscene.module import SceneModule

# Six steps of four samples, two checkpoints, validation after four steps and at the end.
SHORT_RUN = (
    "train.steps=6",
    "train.checkpoint_every=3",
    "train.validate_every=4",
    "train.prompt_dropout=0.5",
    "data.batch_size=4",
    "data.val_samples=3",
    "log.every=1",
)


@dataclass(frozen=True)
class Workspace:
    """A configuration file and the folder of its runs."""

    yaml: Path

    @classmethod
    def make(cls, base: Path, shards: Path, folder: Path) -> "Workspace":
        tiny_config(base, shards, folder)
        return cls(folder / "tiny.yaml")

    @property
    def judge(self) -> str:
        """The override that names the judge beside the configuration file."""
        return f"metrics.judge={self.yaml.parent / 'judge'}"

    def command(self, name: str, *overrides: str) -> list[str]:
        return ["train", str(self.yaml), f"name={name}", *SHORT_RUN, *overrides]

    def train(self, name: str, *overrides: str) -> "Run":
        """Train as a user does, in this process."""
        assert main(self.command(name, *overrides)) == 0
        return self.run(name)

    def run(self, name: str) -> "Run":
        return Run(self.yaml.parent / name)

    def killed_copy(self, run: "Run", name: str, step: int) -> "Run":
        """What was on the disk when `run` had saved `step`, under another name."""
        return killed_copy(run, self.yaml.parent / name, step)


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}.ckpt"

    def state(self, step: int) -> dict[str, Any]:
        return torch.load(self.checkpoint(step), weights_only=True)

    def figures(self, name: str) -> dict[int, float]:
        """Values of `metrics.csv` by step; each step is there once."""
        rows = [(step, value) for step, key, value in read_metrics(self.csv) if key == name]
        assert len(dict(rows)) == len(rows)
        return dict(rows)

    @property
    def csv(self) -> Path:
        return self.folder / "metrics.csv"


def killed_copy(run: Run, folder: Path, step: int) -> Run:
    """What was on the disk when `run` had saved `step`, as `folder`."""
    copy = Run(Path(shutil.copytree(run.folder, folder)))
    for file in copy.folder.glob("checkpoints/*"):
        if file.stem > f"step-{step:08d}":
            file.unlink()
    return copy


@contextmanager
def recorded_keys() -> Iterator[list[list[str]]]:
    """The keys of each training micro-batch while the context is open."""
    keys: list[list[str]] = []
    training_step = SceneModule.training_step

    def note(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        keys.append(batch["key"])
        return training_step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SceneModule, "training_step", note)
        yield keys


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state by their path."""
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    found = {}
    for key, value in items:
        if isinstance(value, torch.Tensor | dict | list):
            found |= tensors(value, f"{path}/{key}")
    return found


def assert_same_training_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Trained weights, average, optimizer and schedule are equal, bit for bit."""
    for part in ("state_dict", "callbacks", "optimizer_states"):
        first, second = tensors(one[part]), tensors(other[part])
        assert first.keys() == second.keys()
        assert len(first) > 40
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"{part}{name}"
    assert one["global_step"] == other["global_step"]
    assert one["lr_schedulers"] == other["lr_schedulers"]


def save_tiny_judge(folder: Path) -> Path:
    """An untrained judge of two classes: its figures mean nothing, but they are reproducible."""
    labels = [Labels("beach", "left", "warm"), Labels("city", "right", "cool")]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        means = ClassMeans.fit(torch.rand(8, 3, 64, 64), labels * 4)
        segmenter = SmallSegmenter((4, 8)).eval()
    Judge(means, segmenter, {"noise_floor": {}}).save_pretrained(folder)
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(arguments) == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
