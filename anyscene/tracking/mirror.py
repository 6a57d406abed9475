"""What W&B is told of a run, all of it read from the run folder. No torch here.

Each piece is told once over all starts of a run, for what W&B has recorded already is left out. So
it does not matter when a start, or W&B, died: the next one goes on without a gap or a repeat.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import wandb
import yaml

from anyscene.data.sources import read_manifest
from anyscene.errors import DamageError, InputError
from anyscene.metrics_file import parse_rows
from anyscene.records import checkpoint_record, run_record
from anyscene.tracking.transaction_log import STEP, read_recorded

TABLE = "samples/table"
REPORTS = ("evaluation.json", "report.html")


class Mirror:
    """Brings a W&B run up to the state of a run folder, as often as `update` is called."""

    def __init__(self, run: Path, experiment: Any, warn: Callable[[str], None]) -> None:
        self.run = run
        self.warn = warn
        self.experiment = experiment
        self.recorded = read_recorded(run)
        self.read_bytes = 0  # of metrics.csv
        self.seen: set[tuple[Path, int]] = set()  # with the time of the last change
        experiment.define_metric(STEP)
        experiment.define_metric("*", step_metric=STEP, step_sync=True)
        self.config = yaml.safe_load((run / "config.yaml").read_text())
        experiment.config.update(describe(run, self.config), allow_val_change=True)
        self._data_manifests()

    def update(self) -> None:
        """Tell what is new in the run folder.

        Pictures are looked for first, so that figures of all steps before theirs are there: W&B
        would make one row of a picture and of an earlier step's figures that come later.
        """
        tables, pictures = self._new("samples/step-*/scenes.npz"), self._new("samples/step-*/*.png")
        rows: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        for step, name, value in self._new_figures():
            rows[step][name] = value
        for scenes in tables:
            step = int(scenes.parent.name[5:])
            if (step, TABLE) not in self.recorded.figures:
                rows[step][TABLE] = sample_table(scenes)
        for picture in pictures:
            step, name = int(picture.parent.name[5:]), f"samples/{picture.stem}"
            if (step, name) not in self.recorded.figures:
                rows[step][name] = wandb.Image(str(picture))
        for step in sorted(rows):
            self._log(step, rows[step])
        for record in self._new("checkpoints/step-*.json"):
            self._checkpoint(record)
        self._reports()

    def _log(self, step: int, row: dict[str, Any]) -> None:
        """One row of history. Its number is the step too, except where an online run, resumed, is
        past it already."""
        number = step if step >= self.experiment.step else None
        self.experiment.log({**row, STEP: step}, step=number)
        self.recorded.figures |= {(step, name) for name in row}

    def _new_figures(self) -> list[tuple[int, str, float]]:
        """Whole lines of metrics.csv that W&B does not have."""
        with (self.run / "metrics.csv").open("rb") as file:
            file.seek(self.read_bytes)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self.read_bytes += len(whole) + 1
        return [row for row in parse_rows(whole.decode()) if row[:2] not in self.recorded.figures]

    def _new(self, pattern: str) -> list[Path]:
        """Files that are new or changed since the last call."""
        found = set()
        for path in self.run.glob(pattern):
            with suppress(FileNotFoundError):  # removed meanwhile, as old checkpoints are
                found.add((path, path.stat().st_mtime_ns))
        new, self.seen = found - self.seen, self.seen | found
        return sorted(path for path, _ in new)

    def _data_manifests(self) -> None:
        """The manifests of all data sets, whose checksums name every shard."""
        data = self.config["data"]
        for split, location in _locations(data):
            try:
                manifest = read_manifest(location)
            except InputError:
                continue  # moved away since
            named = {"location": location, "sha256": manifest.sha256(), "samples": manifest.samples}
            artifact = wandb.Artifact(f"{self._id}-{split}", "data-manifest", metadata=named)
            with artifact.new_file("manifest.json") as file:
                file.write(manifest.to_json())
            self._log_artifact(artifact, [])

    def _checkpoint(self, record: Path) -> None:
        """A reference to the file where it lies: weights are never uploaded."""
        path = record.with_suffix(".ckpt").absolute()
        try:
            values = checkpoint_record(path)
        except DamageError:
            return  # removed meanwhile, for newer ones; or damaged
        artifact = wandb.Artifact(f"{self._id}-checkpoint", "checkpoint", metadata=values)
        try:
            artifact.add_reference(f"file://{path}", name=path.name, checksum=False)
        except ValueError:
            return  # removed meanwhile, for newer ones
        self._log_artifact(artifact, ["latest", f"step-{values['step']}"])

    def _reports(self) -> None:
        """The evaluation and the page about the run, where they are there."""
        for path in [path for name in REPORTS for path in self._new(name)]:
            artifact = wandb.Artifact(f"{self._id}-{path.stem}", "evaluation-report")
            artifact.add_file(str(path))
            self._log_artifact(artifact, ["latest"])

    @property
    def _id(self) -> str:
        return self.experiment.id

    def _log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        key = (artifact.name.partition(":")[0], artifact.digest)
        if key in self.recorded.artifacts:
            return
        self.recorded.artifacts.add(key)
        try:
            self.experiment.log_artifact(artifact, aliases=aliases or None)
        except Exception as error:  # whatever a server says to it: figures are worth more
            self.warn(f"W&B does not take the artifact {artifact.name} ({error})")


def describe(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration, and from `run.json` what the run ran on."""
    record = run_record(run)
    jobs = record["jobs"]
    ids = dict.fromkeys(job["slurm_job_id"] for job in jobs if job["slurm_job_id"] is not None)
    return {
        **config,
        **{name: record[name] for name in ("run_id", "git_commit", "versions")},
        "base_sha256": record["base"]["sha256"],
        "slurm_job_ids": list(ids),
        "starts": jobs,
    }


def _locations(data: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, location) of every data set of the configuration."""
    mix = [(f"mix-{number}", place) for number, place in enumerate(data.get("mix") or {})]
    named = [("train", data["train"]), *mix, ("val", data.get("val"))]
    return [(name, place) for name, place in named if place]


def sample_table(path: Path) -> Any:
    """A row a validation scene, from the file that `ValidationScenes` writes."""
    with np.load(path) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    prompts = columns.pop("prompt")
    table = wandb.Table(columns=["prompt", *columns])
    for number, prompt in enumerate(prompts):
        table.add_data(str(prompt), *(wandb.Image(images[number]) for images in columns.values()))
    return table
