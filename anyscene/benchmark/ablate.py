"""`anyscene benchmark ablate`: what each mechanism of layout control does, alone and together.

The arms are none, each mechanism alone, and all; every one samples the same scenes from the same
seeds, so their differences are paired by scene. Measured before blending, which would hide what the
model made. Writes ablation.json and ablation.md.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anyscene.config import Blend, SampleConfig
from anyscene.errors import InputError
from anyscene.files import replace_file, write_json
from anyscene.foregrounds import image_size, read_foreground
from anyscene.held_out import Scenes
from anyscene.image_jobs import Model
from anyscene.layout_settings import MECHANISMS, LayoutControl, layout_record
from anyscene.metrics.bootstrap import bootstrap_interval
from anyscene.metrics.boundary import BoundaryF
from anyscene.metrics.fidelity import LayoutMetrics, MaskedPsnr
from anyscene.metrics.judge import Judge
from anyscene.metrics.prompt import PromptAccuracy
from anyscene.metrics.seam import SeamMetrics
from anyscene.metrics.segmenter import Segmenter
from anyscene.metrics.shadow import ShadowCorrelation
from anyscene.metrics.truth import labels_of
from anyscene.sampler import sample_options, sample_scenes
from anyscene.scene_list import GenerateSettings, Scene

LEVEL = 0.95
JSON_NAME, TABLE_NAME = "ablation.json", "ablation.md"
NONE, ALL, REAL = "none", "all", "real scenes"
COLUMNS = {
    "mask_iou": ("mask IoU", 1.0, 3),
    "boundary_f": ("boundary F", 1.0, 3),
    "growth": ("growth, %", 100.0, 1),
    "outside_share": ("outside, %", 100.0, 2),
    "lost": ("lost, %", 100.0, 1),
    "psnr_in_mask": ("PSNR in mask, dB", 1.0, 1),
    "seam": ("seam, stops", 1.0, 2),
    "colour_shift": ("colour shift", 1.0, 1),
    "shadow_correlation": ("shadow correlation", 1.0, 2),
    "light_accuracy": ("light accuracy", 1.0, 2),
}
"""Metrics of the table: heading, factor and decimals."""

COMPARED = ("psnr_in_mask", "colour_shift")
"""Those that compare with the real scene, which says nothing of the real scene itself."""


@dataclass(frozen=True)
class Measure:
    """What judges the images: a segmenter, and for procedural scenes a judge of their light."""

    segmenter: Segmenter
    judge: Judge | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor, scenes: Scenes) -> dict[str, list[float]]:
        """Values of images N 3 H W by name, one an image, NaN where it has none."""
        alpha = scenes.alpha
        found = torch.cat(
            [self.segmenter(*pair) for pair in zip(images.split(8), alpha.split(8), strict=True)]
        )
        layout, boundary, psnr, seams = LayoutMetrics(), BoundaryF(), MaskedPsnr(), SeamMetrics()
        layout.update(found, alpha)
        boundary.update(found, alpha)
        psnr.update(images, scenes.foreground, alpha)
        seams.update(images, scenes.foreground, alpha)
        metrics: list[Any] = [layout, boundary, psnr, seams]
        if self.judge is not None and any(scenes.truths):
            shadow, prompt = ShadowCorrelation(), PromptAccuracy()
            shadow.update(images, alpha, scenes.truths)
            asked = [None if truth is None else labels_of(truth) for truth in scenes.truths]
            prompt.update(self.judge.class_means(images), asked)
            metrics += [shadow, prompt]
        values = {name: own for metric in metrics for name, own in metric.per_image().items()}
        return {name: values[name].tolist() for name in COLUMNS if name in values}


def arms(on: LayoutControl) -> dict[str, LayoutControl]:
    """What is compared: `on` has the strengths and spans of the mechanisms where they are on."""
    off = replace(on, **dict.fromkeys(MECHANISMS, 0.0))
    alone = {name: replace(off, **{name: on.strength(name)}) for name in on.active()}
    return {NONE: off, **alone} | ({ALL: on} if len(alone) > 1 else {})


def ablate(
    model: Model,
    scenes: Scenes,
    measure: Measure,
    out: Path,
    *,
    sample: SampleConfig,
    on: LayoutControl,
    seeds: Sequence[int] = (0,),
    real: bool = False,
) -> dict[str, Any]:
    """Write `out`/ablation.json and .md, and return what the JSON says.

    Args:
        model: what samples.
        scenes: N scenes; their own seeds are added to each of `seeds`.
        measure: what judges.
        out: folder.
        sample: how to sample; its layout control is replaced by that of the arms.
        on: strengths and spans of the mechanisms that are compared.
        seeds: images a scene and arm, one for each.
        real: `scenes.scene` are real scenes, whose values are the noise floor.

    Raises:
        InputError: nothing is on.
    """
    if not on.active():
        raise InputError("ablate needs a mechanism: --layout attention=4, for instance")
    if len(scenes.prompts) < 2:
        raise InputError("ablate needs at least 2 scenes for its intervals")
    rows: list[dict[str, Any]] = []
    if real:
        values = measure(scenes.scene, scenes)
        rows.append(_row(REAL, {k: v for k, v in values.items() if k not in COMPARED}))
    baseline: dict[str, list[float]] = {}
    measured = _measure_arms(model, scenes, measure, sample, arms(on), seeds)
    for name, (runs, seconds) in measured.items():
        values = _mean_over_seeds(runs)
        baseline = baseline or values
        rows.append(
            _row(name, values, {} if name == NONE else baseline)
            | {"layout": layout_record(arms(on)[name]), "seconds_per_image": seconds}
        )
    record = {
        "model": model.path,
        "model_sha256": model.sha256,
        "device": model.device_name(),
        "scenes": len(scenes.prompts),
        "seeds": list(seeds),
        "steps": sample.steps,
        "guidance_scale": float(sample.guidance_scale),
        "level": LEVEL,
        "rows": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / JSON_NAME, record)
    replace_file(out / TABLE_NAME, lambda part: part.write_text(table(record)))
    return record


def _measure_arms(
    model: Model,
    scenes: Scenes,
    measure: Measure,
    sample: SampleConfig,
    layouts: Mapping[str, LayoutControl],
    seeds: Sequence[int],
) -> dict[str, tuple[list[dict[str, list[float]]], float]]:
    """The values of each arm's images, for each seed, and the seconds that an image takes: of
    processor time where that does the work. The arms take turns."""
    clock = time.process_time if torch.device(model.device).type == "cpu" else time.perf_counter
    runs: dict[str, list[dict[str, list[float]]]] = {name: [] for name in layouts}
    seconds = dict.fromkeys(layouts, 0.0)
    turns = [(seed, name) for seed in seeds for name in layouts]
    for seed, name in tqdm(turns, desc="ablate", unit="arm", disable=None):
        started = clock()
        images = _sample(model, scenes, replace(sample, layout=layouts[name]), seed)
        seconds[name] += (clock() - started) / (len(seeds) * len(scenes.prompts))
        runs[name].append(measure(images, scenes))
    return {name: (runs[name], seconds[name]) for name in layouts}


def _sample(model: Model, scenes: Scenes, sample: SampleConfig, seed: int) -> Tensor:
    options = sample_options(sample) | {"blend": Blend.none}
    output = sample_scenes(
        model.pipeline,
        scenes.prompts,
        [own + seed for own in scenes.seeds],
        scenes.foreground,
        scenes.alpha,
        micro_batch=min(sample.micro_batch, len(scenes.prompts)),
        **options,
    )
    return torch.as_tensor(output.raw_images).cpu().float()


def _mean_over_seeds(runs: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """A value a scene: images of one scene are no independent draws, so the bootstrap is over
    scenes."""
    return {name: np.mean([run[name] for run in runs], axis=0).tolist() for name in runs[0]}


def _row(
    name: str, values: Mapping[str, list[float]], baseline: Mapping[str, list[float]] | None = None
) -> dict[str, Any]:
    """Means and intervals, and those of the scenes' differences to the baseline's."""

    def summary(columns: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, list[float]]]:
        kept = {key: own for key, own in columns.items() if not np.isnan(own).all()}
        means = {key: float(np.nanmean(own)) for key, own in kept.items()}
        intervals = {
            key: list(bootstrap_interval(list(own), seed=0, level=LEVEL))
            for key, own in kept.items()
        }
        return means, intervals

    figures, intervals = summary(values)
    changes, change_intervals = summary(
        {key: np.subtract(values[key], before) for key, before in (baseline or {}).items()}
    )
    return {
        "name": name,
        "figures": figures,
        "intervals": intervals,
        "changes": changes,
        "change_intervals": change_intervals,
    }


def table(record: Mapping[str, Any]) -> str:
    """Markdown: each arm's means with intervals; then the paired changes, bold where the interval
    does not hold 0."""
    rows = record["rows"]
    names = [name for name in COLUMNS if any(name in row["figures"] for row in rows)]
    head = ["", *(COLUMNS[name][0] for name in names)]
    lines = [
        f"{record['scenes']} scenes, seeds {', '.join(map(str, record['seeds']))}, "
        f"{record['steps']} steps, guidance {record['guidance_scale']:g}, before blending; "
        f"{100 * record['level']:g} % bootstrap intervals over scenes.\n",
        *_markdown(
            [*head, "s an image"], [[*_cells(row, names, False), _time(row)] for row in rows]
        ),
        "\nChange against `none`, paired by scene; bold: the interval does not hold 0.\n",
        *_markdown(head, [_cells(row, names, True) for row in rows if row["changes"]]),
    ]
    return "\n".join(lines) + "\n"


def _time(row: Mapping[str, Any]) -> str:
    return f"{row['seconds_per_image']:.2f}" if "seconds_per_image" in row else ""


def _cells(row: Mapping[str, Any], names: Sequence[str], change: bool) -> list[str]:
    means, intervals = (
        row[key]
        for key in (("changes", "change_intervals") if change else ("figures", "intervals"))
    )
    cells = [row["name"]]
    for name in names:
        _, factor, digits = COLUMNS[name]
        if name not in means:
            cells.append("")
            continue
        sign = "+" if change else ""
        mean, low, high = (
            f"{factor * value:{sign}.{digits}f}" for value in (means[name], *intervals[name])
        )
        apart = change and (intervals[name][0] > 0 or intervals[name][1] < 0)
        cells.append(f"**{mean}** ({low} to {high})" if apart else f"{mean} ({low} to {high})")
    return cells


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{' --- |' * len(head)}",
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]


def listed_scenes(model: Model, scenes: Sequence[Scene]) -> Scenes:
    """The scenes of a list, each prompt one, at the size that `anyscene generate` takes.

    Raises:
        InputError: scenes without foreground, or of several sizes.
    """
    rgb, alpha, prompts, seeds = [], [], [], []
    for scene in scenes:
        if not scene.guided:
            raise InputError(f"scene {scene.scene_id} has no canvas and no elements to keep")
        foreground = read_foreground(scene, image_size(model, scene, GenerateSettings()))
        if alpha and foreground.alpha.shape != alpha[0].shape:
            raise InputError(
                f"scene {scene.scene_id} has another size than the ones before: give canvases of "
                "one shape"
            )
        for prompt in scene.prompts:
            rgb.append(foreground.rgb)
            alpha.append(foreground.alpha)
            prompts.append(prompt)
            seeds.append(scene.seed)
    colours = torch.stack(rgb)
    truths: list[Any] = [None] * len(prompts)
    return Scenes(colours, torch.stack(alpha), prompts, truths, seeds, colours)
