"""`anyscene report`: one self-contained page about a run, for a screen or for paper."""

import base64
import io
import json
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from anyscene.errors import InputError
from anyscene.files import replace_file
from anyscene.metrics_file import read_metrics
from anyscene.report_plots import (
    TRAIN,
    VALIDATION,
    Series,
    loss_plot,
    small_plot,
    smoothing_window,
)
from anyscene.report_quantities import COLUMNS, MISSING, OTHERS, Quantity

EARLIER_GRIDS = 6  # shown at most, spread over the run
WIDEST_GRID = 2000  # px; wider ones are reduced and compressed, so that the page stays light
HIDDEN = {"train/loss", "val/loss", "val/images"}  # not among the small curves
MEDIANS = {"images_per_second", "data_wait_seconds"}  # shown by it, the others by their last value
REAL = "real scenes"  # the row of an evaluation that curves are compared with


@dataclass(frozen=True)
class Run:
    """What a run folder holds; parts that are missing are empty."""

    folder: Path
    record: dict[str, Any]  # run.json
    config: dict[str, Any]
    config_text: str
    series: dict[str, Series]  # metrics.csv by name
    broken: dict[str, int]  # names with values that are not finite, and the step of the first
    evaluation: dict[str, Any]

    @property
    def steps(self) -> int:
        """The last step that a figure or a checkpoint is of."""
        logged = [step for points in self.series.values() for step in points]
        saved = [int(path.stem[5:]) for path in self.folder.glob("checkpoints/step-*.json")]
        return max([*logged, *saved], default=0)

    @property
    def name(self) -> str:
        """As configured, or the folder's."""
        return str(self.config.get("name") or self.folder.resolve().name)

    @property
    def restarts(self) -> list[int]:
        """Steps that later starts went on from, where they are recorded."""
        steps = [job.get("step") for job in self.record.get("jobs", [])[1:]]
        return [step for step in steps if isinstance(step, int)]


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder; the same bytes for the same content.

    Raises:
        InputError: the folder is no run, or one of its files is damaged.
    """
    if not any((folder / name).is_file() for name in ("run.json", "metrics.csv")):
        raise InputError(f"{folder} is no run folder: it has neither run.json nor metrics.csv")
    page = render(read_run(folder))
    path = folder / "report.html"
    replace_file(path, lambda part: part.write_text(page, encoding="utf-8"))
    return path


def read_run(folder: Path) -> Run:
    """What is there of a run."""
    logged: defaultdict[str, Series] = defaultdict(dict)
    broken: dict[str, int] = {}
    for step, name, value in sorted(read_metrics(folder / "metrics.csv"), key=lambda row: row[0]):
        if math.isfinite(value):
            logged[name][step] = value
        else:
            broken.setdefault(name, step)
    config = folder / "config.yaml"
    return Run(
        folder,
        record=_read(folder / "run.json", json.loads),
        config=_read(config, yaml.safe_load),
        config_text=config.read_text() if config.is_file() else "",
        series=dict(logged),
        broken=broken,
        evaluation=_read(folder / "evaluation.json", json.loads),
    )


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The values in a file, none without it."""
    try:
        values = parse(path.read_text()) if path.is_file() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: it holds no names with values")
    return values


def render(run: Run) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyscene"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    losses = run.series.get("train/loss", {}), run.series.get("val/loss", {})
    grids = sorted(run.folder.glob("samples/step-*/grid.png"), reverse=True)
    shown = grids[:1] + _spread(grids[1:], EARLIER_GRIDS)
    return environment.get_template("report.html.j2").render(
        run=run,
        missing=MISSING,
        summary=summary(run),
        measuring=measuring(run, run.folder),
        commands=commands(run),
        columns=COLUMNS,
        rows=table(run.evaluation.get("rows", [])),
        last_validation=table(last_validation(run)),
        controls=table(run.evaluation.get("controls", [])),
        loss=loss_plot(*losses, run.restarts) if any(losses) else None,
        smoothing=smoothing_window(len(losses[0])),
        cards={"validation": cards(run, validation=True), "speed": cards(run, validation=False)},
        grids=[{"step": int(path.parent.name[5:]), **inline_image(path)} for path in shown],
        grids_left_out=len(grids) - len(shown),
    )


def _spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of them, the first and the last among them, evenly spaced."""
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def summary(run: Run) -> dict[str, str]:
    """The line under the title: what was run, where, how fast."""
    train, base = run.config.get("train", {}), run.record.get("base", {})
    speed = list(run.series.get("train/images_per_second", {}).values())
    commit, mark, dirty = (run.record.get("git_commit") or "").partition("+")
    parts = {
        "Step": f"{run.steps:,} of {train['steps']:,}" if "steps" in train else f"{run.steps:,}",
        "Images/s": f"{np.median(speed):.1f}" if speed else "",
        "Base": base.get("path") or "",
        "Base sha256": (base.get("sha256") or "")[:12],
        "Device": (run.record.get("jobs") or [{}])[-1].get("device"),
        "Seed": str(train.get("seed", "")),
        "Commit": commit[:12] + mark + dirty,
    }
    return {label: value for label, value in parts.items() if value}


def commands(run: Run) -> list[str]:
    """What makes the run again, beside itself."""
    commit, _, dirty = (run.record.get("git_commit") or "").partition("+")
    again = f"{run.name}-again"
    path = Path(run.config.get("runs_dir", "runs")) / again
    remark = "  # and changes that were not committed" if dirty else ""
    return [
        f"git checkout {commit or 'COMMIT'}{remark}",
        f"anyscene train {shlex.quote(str(run.folder / 'config.yaml'))} name={shlex.quote(again)}",
        *measuring(run, path),
    ]


def measuring(run: Run, path: Path) -> list[str]:
    """What measures the run once it is in the folder `path`, and shows it."""
    folder, export, figures = (
        shlex.quote(str(path / part)) for part in ("", "export", "evaluation.json")
    )
    shards = shlex.quote((run.config.get("data") or {}).get("val") or "SHARDS")
    judge = shlex.quote((run.config.get("metrics") or {}).get("judge") or "JUDGE")
    return [
        f"anyscene export {folder} --out {export}",
        f"anyscene evaluate {export} --shards {shards} --judge {judge} --out {figures}",
        f"anyscene report {folder}",
    ]


def last_validation(run: Run) -> list[dict[str, Any]]:
    """Rows like those of an evaluation, from the last validation that was logged."""
    points = {name[4:]: series for name, series in run.series.items() if name.startswith("val/")}
    shown = [max(points[column.name]) for column in COLUMNS if column.name in points]
    if not shown:
        return []
    step = max(shown)
    figures = {name: series[step] for name, series in points.items() if step in series}
    rows = [{"name": f"validation at step {step:,}, before blending", "figures": figures}]
    if "psnr_in_mask_blended" in figures:
        blended = {"psnr_in_mask": figures["psnr_in_mask_blended"]}
        rows.append({"name": f"validation at step {step:,}, after blending", "figures": blended})
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the text of each column's value and interval."""

    def cell(row: dict[str, Any], column: Quantity) -> tuple[str, str]:
        interval = row.get("intervals", {}).get(column.name) or (None, None)
        low, high = map(column.text, interval)  # null where there is none
        bounds = "" if MISSING in (low, high) else f"{low} to {high}"
        return column.text(row["figures"].get(column.name)), bounds

    return [{"name": row["name"], "cells": [cell(row, c) for c in COLUMNS]} for row in rows]


def cards(run: Run, *, validation: bool) -> list[dict[str, Any]]:
    """A small curve of each figure, of validation or of all else; known ones come first."""
    known = {quantity.name: quantity for quantity in (*COLUMNS, *OTHERS)}
    order = {name: place for place, name in enumerate(known)}
    ceiling = {row["name"]: row["figures"] for row in run.evaluation.get("rows", [])}.get(REAL, {})
    found = [name.partition("/") for name in run.series.keys() - HIDDEN]
    found = [parts for parts in found if (parts[0] == "val") is validation]
    result = []
    for parts in sorted(found, key=lambda parts: (order.get(parts[2], len(order)), parts)):
        name, short = "".join(parts), parts[2]
        quantity = known.get(short) or Quantity(short, (short or name).replace("_", " "))
        series = run.series[name]
        bounded = quantity.limits == (0, 1)  # of others the ceiling may be far from the curve
        plot = small_plot(
            re.sub(r"\W", "-", name),
            {step: value * quantity.factor for step, value in series.items()},
            run.restarts,
            colour=VALIDATION if validation else TRAIN,
            limits=quantity.limits,
            last_step=run.steps,
            real=ceiling.get(short) if bounded else None,
        )
        values = list(series.values())
        typical = float(np.median(values)) if short in MEDIANS else values[-1]
        result.append({"quantity": quantity, "value": quantity.text(typical), "plot": plot})
    return result


def inline_image(path: Path) -> dict[str, Any]:
    """Address, width and height of an image that is held in the page itself."""
    with Image.open(path) as image:
        width, height = image.size
        if width <= WIDEST_GRID:
            kind, data = "png", path.read_bytes()
        else:
            width, height = WIDEST_GRID, round(height * WIDEST_GRID / width)
            buffer = io.BytesIO()
            small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            small.save(buffer, format="JPEG", quality=90)
            kind, data = "jpeg", buffer.getvalue()
    address = Markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")
    return {"address": address, "width": width, "height": height}
