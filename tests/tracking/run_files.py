"""A run folder as training leaves it to W&B, made step by step without training."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from anyscene.callbacks.metrics_csv import MetricsCsv
from anyscene.files import write_json

NAMES = ("train/loss", "train/images_per_second")


@dataclass(frozen=True)
class RunFiles:
    """A run that logs every step, saves every third and validates every fourth."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, shards: Path) -> "RunFiles":
        (folder / "checkpoints").mkdir(parents=True)
        data = {"train": str(shards / "train"), "mix": {}, "val": str(shards / "val")}
        config = {"name": "tiny", "data": data, "log": {"project": "anyscene"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        run = {"run_id": "tiny-1234", "wandb_id": "tiny-1234", "git_commit": "c0ffee", "jobs": []}
        run |= {"versions": {"torch": "2"}, "base": {"sha256": "ba5e"}}
        write_json(folder / "run.json", run)
        return cls(folder)

    def begin(self, step: int, job: str | None = None) -> MetricsCsv:
        """A start from a step, as training prepares it."""
        record = json.loads((self.folder / "run.json").read_text())
        record["jobs"].append({"step": step, "slurm_job_id": job})
        write_json(self.folder / "run.json", record)
        csv = MetricsCsv(self.folder / "metrics.csv")
        csv.start_at(step)
        return csv

    def do(self, csv: MetricsCsv, first: int, last: int) -> None:
        """Steps from `first` to `last`."""
        for step in range(first, last + 1):
            csv.log_metrics(dict.fromkeys(NAMES, step / 8), step)
            if step % 4 == 0:
                self.validate(csv, step)
            if step % 3 == 0:
                path = self.folder / "checkpoints" / f"step-{step:08d}.ckpt"
                path.write_bytes(bytes(step))
                record = {"step": step, "bytes": step, "sha256": f"{step:064d}"}
                write_json(path.with_suffix(".json"), record)

    def validate(self, csv: MetricsCsv, step: int) -> None:
        """One scene, and the loss last."""
        folder = self.folder / "samples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        images = {
            name: np.zeros((1, 8, 8, 3), np.uint8) for name in ("foreground", "generated", "real")
        }
        with (folder / "scenes.npz").open("wb") as file:
            np.savez_compressed(file, prompt=np.array(["a mug"]), **images)
        csv.log_metrics({"val/loss": step / 8}, step)


def all_figures(last: int) -> set[tuple[int, str]]:
    """What is logged up to a step."""
    train = {(step, name) for step in range(1, last + 1) for name in NAMES}
    return train | {
        (step, name) for step in range(4, last + 1, 4) for name in ("val/loss", "samples/table")
    }
