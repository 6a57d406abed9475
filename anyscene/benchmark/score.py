"""`anyscene benchmark score`: every metric for every method, with what can be said about chance.

The images of a scene's generation seeds are averaged first. Intervals and tests are over scenes;
those of one subject, or around the elements of one image, are one unit there. FID and FD-DINOv2 are
given at the full number of images with their spread over the generation seeds; they are neither
bootstrapped nor split by category, which would bias them.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anyscene.benchmark.measure import FRECHET, INFO, KERNEL, Figures, Meter
from anyscene.benchmark.methods import TOLD_THE_ANSWER
from anyscene.benchmark.runs import SAME, Run
from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.statistics import (
    Column,
    Units,
    best_of,
    compare,
    estimate,
    groups,
    scene_means,
    units_of,
)
from anyscene.config import MetricsConfig
from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.files import replace_file, write_json
from anyscene.metrics.bootstrap import known_interval, percentile_interval
from anyscene.metrics.suite import SceneMetrics
from anyscene.models.base import weights_sha256

SCORES_NAME, TABLE_NAME = "scores.json", "per_image.csv"
OURS = "anyscene"


def score(
    benchmark: Benchmark,
    runs: Sequence[Run],
    out: Path,
    config: MetricsConfig,
    *,
    device: str = "auto",
    least: int = 5,
    sam: str | None = None,
) -> dict[str, Any]:
    """Write `scores.json` and `per_image.csv` into the folder `out`, and return the former.

    Args:
        benchmark: the scenes.
        runs: of the methods, as `read_runs` gives them.
        out: folder for the scores.
        config: weights of the metrics; what is not given is "not computed", with the reason.
        device: auto, cpu or cuda.
        least: scenes that a category needs for figures of its own.
        sam: folder or hub id of a SAM that finds the elements in photos, where no judge does.

    Raises:
        InputError: weights that cannot be used, or no such device.
        DamageError: an image that is not the one that its run made.
    """
    if sam is not None and config.judge is not None:
        raise InputError(f"--sam {sam} and metrics.judge={config.judge} find the same: give one")
    if least < 2:
        raise InputError(f"--least {least} must be at least 2")
    device = choose_device(device)
    out.mkdir(parents=True, exist_ok=True)
    meter = Meter.build(benchmark, config, out / "reference", device, sam)
    measured = {run.name: meter.measure(run) for run in runs}
    real = meter.measure_real()
    units = units_of(benchmark)
    record = {
        "benchmark": {
            "folder": str(benchmark.folder),
            "sha256": benchmark.sha256,
            **{key: benchmark.record[key] for key in ("scenes", "layouts", "real_images")},
            "source": benchmark.record["arguments"]["source"],
            "units": len(set(units.tolist())),
        },
        "sampling": {key: runs[0].record[key] for key in SAME},
        "methods": {run.name: _method(run, measured[run.name], units) for run in runs},
        "real": None if real is None else _estimates(real, units),
        "groups": _grouped(benchmark, runs, measured, least, units),
        "comparisons": comparisons(runs, measured, units),
        "found_by": found_by(meter, config, sam),
        "not_computed": _not_computed(measured),
    }
    write_json(out / SCORES_NAME, record)
    text = per_image_table(benchmark, runs, measured)
    replace_file(out / TABLE_NAME, lambda part: part.write_text(text, encoding="utf-8"))
    return record


def found_by(meter: Meter, config: MetricsConfig, sam: str | None) -> str | None:
    """What finds the elements in an image, and the checksum of its weights."""
    judge = meter.judge
    network = judge.judge if isinstance(judge, SceneMetrics) else judge.segmenter
    if not isinstance(network, nn.Module):
        return None
    weights = weights_sha256(network)[:12]
    if config.judge is not None:
        return f"the segmenter and classifier of {config.judge} ({weights})"
    return f"the SAM of {sam} ({weights}), by points in each element"


def columns_of(figures: Figures) -> dict[str, Column]:
    """A value a scene of every per-image metric."""
    return {metric: scene_means(values) for metric, values in figures.values.items()}


def _estimates(figures: Figures, units: Units) -> dict[str, Any]:
    return {metric: estimate(column, units) for metric, column in columns_of(figures).items()}


def _method(run: Run, figures: Figures, units: Units) -> dict[str, Any]:
    sets = {metric: set_figure(metric, values, figures) for metric, values in figures.sets.items()}
    return {
        "method": run.method,
        "told_the_answer": run.method in TOLD_THE_ANSWER,
        "model": run.lines[0][0]["model"],
        "model_sha256": run.record["model_sha256"],
        "blend": run.record["blend"],
        "layout": run.record["layout"],
        "images": sum(len(own) for own in run.lines),
        "figures": _estimates(figures, units) | sets,
        "details": {name: details for name, details in figures.details.items() if details},
    }


def set_figure(metric: str, values: Sequence[float], figures: Figures) -> dict[str, Any]:
    """A figure of a whole set: the mean over generation seeds, and what is known of its spread."""
    result: dict[str, Any] = {
        "value": float(np.mean(values)),
        "interval": None,
        "seeds": list(values),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }
    assert metric in FRECHET + KERNEL
    if metric in KERNEL and metric in figures.replicates:
        drawn = torch.from_numpy(figures.replicates[metric].mean(axis=0))
        interval = known_interval(percentile_interval(drawn))
        result["interval"] = None if interval is None else list(interval)
    return result


def _grouped(
    benchmark: Benchmark,
    runs: Sequence[Run],
    measured: dict[str, Figures],
    least: int,
    units: Units,
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for group, numbers in groups(benchmark, least).items():
        own = {
            run.name: {
                metric: estimate(column[numbers], units[numbers])
                for metric, column in columns_of(measured[run.name]).items()
            }
            for run in runs
        }
        result[group] = {"scenes": len(numbers), "methods": own}
    return result


def comparisons(runs: Sequence[Run], measured: dict[str, Figures], units: Units) -> dict[str, Any]:
    """Per metric: the best method against all others, and ours against the best of the others.

    Methods that are told the answer are compared with, but are never the best.
    """
    columns = {run.name: columns_of(measured[run.name]) for run in runs}
    rivals = [run.name for run in runs if run.method not in TOLD_THE_ANSWER]
    ours = next((run.name for run in runs if run.method == OURS), None)
    result: dict[str, Any] = {}
    for metric, info in INFO.items():
        own = {name: table[metric] for name, table in columns.items() if metric in table}
        best = best_of({name: own[name] for name in rivals if name in own}, info.better)
        if best is None or len(own) < 2:
            continue
        others = {name: own[name] for name in rivals if name in own and name != ours}
        best_other = best_of(others, info.better)
        against = None
        if ours in own and best_other is not None:
            pair = {str(ours): own[str(ours)], best_other: own[best_other]}
            against = compare(pair, str(ours), info.better, units)
        result[metric] = {
            "best": best,
            "against_others": compare(own, best, info.better, units),
            "ours_against_best_other": against[0] if against else None,
        }
    return result


def _not_computed(measured: dict[str, Figures]) -> dict[str, str]:
    """Metrics that no method has, and why."""
    have = {name for own in measured.values() for name in (*own.values, *own.sets)}
    missing: dict[str, str] = {}
    for own in measured.values():
        missing |= {name: why for name, why in own.missing.items() if name not in have}
    return {name: missing[name] for name in INFO if name in missing}


def per_image_table(benchmark: Benchmark, runs: Sequence[Run], measured: dict[str, Figures]) -> str:
    """CSV with a row an image: method, scene, seed, its file and every per-image value."""
    metrics = [name for name in INFO if any(name in own.values for own in measured.values())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "scene_id", "layout", "seed", "image", *metrics])
    for run in runs:
        values = measured[run.name].values
        for number, (scene, lines) in enumerate(zip(benchmark.scenes, run.lines, strict=True)):
            for repeat, line in enumerate(lines):
                own = [values[m][number, repeat] if m in values else np.nan for m in metrics]
                cells = ["" if np.isnan(value) else f"{value:.6g}" for value in own]
                head = [run.name, scene["scene_id"], scene["layout"], line["seed"], line["image"]]
                writer.writerow([*head, *cells])
    return text.getvalue()
