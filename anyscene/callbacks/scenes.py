"""Generated validation scenes: metrics on all ranks, and a grid of the first ones."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from anyscene.config import SampleConfig
from anyscene.data.transforms import DeviceBatch
from anyscene.files import replace_file, write_json
from anyscene.metrics.catalogue import ScoreBatch
from anyscene.metrics.elements import element_boxes
from anyscene.metrics.judge import Judge
from anyscene.metrics.metric_set import MetricSet
from anyscene.metrics.preprocess import as_saved
from anyscene.module import SceneModule
from anyscene.sampler import sample_options, sample_scenes
from anyscene.visual import sample_grid

GridRow = tuple[int, str, dict[str, torch.Tensor]]


class ValidationScenes(Callback):
    """Generates every validation scene with the moving average, measures and shows it.

    Writes `samples/step-XXXXXXXX/grid.png` and `metrics.json`, with `tables` also the scenes one by
    one in `scenes.npz`, for a tracker's tables; and logs `val/*`.
    """

    def __init__(
        self,
        folder: Path,
        config: SampleConfig,
        metrics: MetricSet | None,
        tables: bool = False,
    ) -> None:
        self.folder = folder
        self.tables = tables
        self.config = config
        self.metrics = metrics
        self.rows: list[GridRow] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Where weights of metrics are given, say once of which there are no figures, and why."""
        metrics = self.metrics
        if metrics is None or not metrics.networks or not metrics.missing:
            return
        if trainer.is_global_zero:
            print(f"not computed in validation: {reasons(metrics.missing)}")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.rows = []
        if self.metrics is not None:
            self.metrics.reset()
            self.metrics.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: DeviceBatch,
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        assert isinstance(pl_module, SceneModule)
        scene = as_saved(batch["scene"] / 2 + 0.5)  # as evaluation reads it, to the last bit
        numbers = batch["counter"].tolist()
        with trainer.precision_plugin.forward_context():
            output = sample_scenes(
                pl_module.pipeline(),
                batch["prompt"],
                [self.config.seed + number for number in numbers],
                scene,
                batch["mask"],
                micro_batch=self.config.micro_batch,
                **sample_options(self.config),
            )
        raw, blended = torch.as_tensor(output.raw_images), torch.as_tensor(output.images)
        if self.metrics is not None:
            self.metrics.update(score_batch(batch, scene, raw, blended))
        columns = {
            "foreground": batch["hint"][:, :3],
            "mask": batch["mask"],
            "generated": raw,
            "blended": blended,
            "real": scene,
        }
        for place, number in enumerate(numbers):
            if number < self.config.grid_scenes:
                own = {name: images[place].cpu() for name, images in columns.items()}
                self.rows.append((number, batch["prompt"][place], own))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SceneModule)
        folder = self.folder / f"step-{trainer.global_step:08d}"
        if self.metrics is not None:
            results = self.metrics.figures()
            self.metrics.release()
            pl_module.record({f"val/{name}": value for name, value in results.items()})
            if trainer.is_global_zero:
                with warned_of_a_full_disk(folder):
                    write_json(folder / "metrics.json", results)
        rows = self._gather(trainer)
        if trainer.is_global_zero and rows:
            shape = rows[0][2]["real"].shape
            rows = [row for row in rows if row[2]["real"].shape == shape]  # one grid, one size
            with warned_of_a_full_disk(folder):
                columns = {name: torch.stack([row[2][name] for row in rows]) for name in rows[0][2]}
                prompts = [row[1] for row in rows]
                write_grid(folder / "grid.png", columns, prompts)
                if self.tables:
                    write_scenes(folder / "scenes.npz", columns, prompts)

    def _gather(self, trainer: Trainer) -> list[GridRow]:
        """The rows of all ranks on rank zero, in the order of the samples."""
        rows = self.rows
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        return sorted(rows, key=lambda row: row[0])


def forget_samples(folder: Path, step: int) -> None:
    """Remove the samples of the steps after `step`, which a restart does anew, as it does with
    their figures: they are of settings that may be others now, and at steps that may get none."""
    for own in folder.glob("step-*"):
        if own.name > f"step-{step:08d}":
            shutil.rmtree(own, ignore_errors=True)


def reasons(missing: dict[str, str]) -> str:
    """The names of metrics by what they are missing for: `fid, kid (...); lpips (...)`."""
    names: dict[str, list[str]] = {}
    for name, why in missing.items():
        if not name.endswith("_blended"):  # as before blending
            names.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(own)} ({why})" for why, own in names.items())


def write_grid(path: Path, columns: dict[str, torch.Tensor], prompts: list[str]) -> None:
    """A picture of columns of images N 3 H W or masks N 1 H W; W&B finds it in the run folder."""
    grid = sample_grid({key: images.cpu() for key, images in columns.items()}, prompts)
    replace_file(path, lambda part: grid.save(part, format="PNG"))


def write_scenes(path: Path, columns: dict[str, torch.Tensor], prompts: list[str]) -> None:
    """The same as arrays: `prompt` N, and images N H W 3 or masks N H W as bytes."""
    arrays: dict[str, Any] = {"prompt": np.array(prompts)}
    for name, images in columns.items():
        pixels = images.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()
        arrays[name] = pixels[..., 0] if pixels.shape[-1] == 1 else pixels

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)

    replace_file(path, write)


def score_batch(
    batch: DeviceBatch, scene: torch.Tensor, raw: torch.Tensor, blended: torch.Tensor
) -> ScoreBatch:
    """Generated images with what they are compared with: the scenes that they were cut out of."""
    return ScoreBatch(
        numbers=batch["counter"].tolist(),
        image=blended,
        raw=raw,
        prompts=batch["prompt"],
        real=scene,
        foreground=scene,
        alpha=batch["mask"],
        boxes=element_boxes(batch["elements"]),
        truths=batch["truth"],
    )


@contextmanager
def warned_of_a_full_disk(folder: Path) -> Iterator[None]:
    """A folder to write into; what cannot be written costs a line, not the run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        print(f"WARNING: {folder} is not complete: {error.strerror}", file=sys.stderr)


def load_judge(path: str | None) -> Judge | None:
    """The judge of `metrics.judge`, if there is one."""
    return None if path is None else Judge.from_pretrained(path)
