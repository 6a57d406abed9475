"""`anyscene benchmark report`: the scores of this run, as a self-contained page and as Markdown.

    OUT/report.html, OUT/report.md          OUT/report/   the plots (SVG) and the grid (PNG)

Every row comes from `scores.json` of the same folder; a metric that was not computed is named with
the reason, and no figure is taken from anywhere else.
"""

import base64
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from anyscene.benchmark.measure import INFO
from anyscene.benchmark.pictures import method_grid, ranked_scenes
from anyscene.benchmark.plots import bars, by_category
from anyscene.benchmark.prompts import DEMO_SOURCE
from anyscene.benchmark.runs import Run
from anyscene.benchmark.scenes import SUBJECTS, Benchmark
from anyscene.benchmark.score import OURS, SCORES_NAME, TABLE_NAME
from anyscene.benchmark.tables import (
    against_best_table,
    comparison_table,
    heading,
    main_table,
)
from anyscene.errors import DamageError, InputError
from anyscene.files import replace_file

RANKED_BY = ("shadow_correlation", "clip_cosine", "subject_dino_i", "psnr_in_mask")
"""What makes a scene a good one of ours: the first of these that was computed."""

GROUPED = (
    "shadow_correlation",
    "mask_iou",
    "clip_cosine",
    "aesthetic_v2",
    "psnr_in_mask",
    "dino_i",
    "subject_dino_i",
)
"""Metrics whose groups are drawn."""

WIDEST = 2000  # px; a wider grid is reduced and compressed in the page

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("anyscene"),
    autoescape=jinja2.select_autoescape(("html.j2",)),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)

WORDS = {
    "figures": (
        "Means over scenes with 95 % intervals (bootstrap; a scene's generation seeds are averaged "
        "first, and scenes of one image or subject are drawn together). FID and FD-DINOv2 are of "
        "one seed's images, their mean and spread over the seeds, and are comparable only within "
        "this table. Fidelity is given before blending and after it (\u201cblended\u201d), where "
        "it measures the blender. Figures of a judge are of the final images. Bold: the best, "
        "which a table alone does not make significant."
    ),
    "told": (
        "* is shown what is measured (the true shadow): no rival but a bound, and never the best."
    ),
    "pairs": (
        "The same scenes in pairs; above 0: anyscene is better. 95 % intervals by bootstrap, p by "
        "Wilcoxon's signed-rank test, scenes of one image or subject as one. Bold: the interval "
        "lies above 0. One test a metric, not corrected for their number."
    ),
    "groups": "Dots are means, lines 95 % intervals. Only groups with enough scenes have figures.",
}


def write_report(benchmark: Benchmark, runs: Sequence[Run], out: Path) -> Path:
    """Write the report beside the scores in `out` and return its page.

    Raises:
        InputError: no scores there, or of other runs than these.
    """
    record = read_scores(out, benchmark, runs)
    shown = [name for name in INFO if any(name in m["figures"] for m in record["methods"].values())]
    rank_metric, rows = grid_rows(out, record)
    grid = method_grid(benchmark, runs, rows)
    files = {"bars.svg": bar_plot(record, shown).encode()} if shown else {}
    groups = group_plot(record, shown)
    if groups is not None:
        files["groups.svg"] = groups.encode()
    files["grid.png"] = _png(grid)
    kind, small = _embedded(grid)
    images = {name: base64.b64encode(data).decode() for name, data in files.items()}
    images |= {"grid": base64.b64encode(small).decode()}
    images |= {name: images.get(name, "") for name in ("bars.svg", "groups.svg")}
    ranked = (
        f"ranked by anyscene's {INFO[rank_metric].title.lower()}" if rank_metric else "in order"
    )
    values: dict[str, Any] = {
        "summary": summary(record),
        "origin": origin(record),
        "words": WORDS | {"grid": f"The first generation seed of each scene, {ranked}."},
        "main": main_table(record, shown, INFO),
        "told": any(own["told_the_answer"] for own in record["methods"].values()),
        "not_computed": [
            (INFO[name].title, record["not_computed"][name])
            for name in INFO
            if name in record["not_computed"]
        ],
        "ours": comparison_table(record, INFO),
        "against_best": [
            (INFO[name].title, against_best_table(record, name))
            for name in RANKED_BY
            if name in record["comparisons"]
        ],
        "images": images,
        "grid_kind": kind,
        "basis": basis(record),
    }
    (out / "report").mkdir(exist_ok=True)
    for name, data in files.items():
        replace_file(out / "report" / name, lambda part, data=data: part.write_bytes(data))
    for name in ("md", "html"):
        text = ENVIRONMENT.get_template(f"benchmark.{name}.j2").render(values)
        path = out / f"report.{name}"
        replace_file(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))
    return out / "report.html"


def read_scores(out: Path, benchmark: Benchmark, runs: Sequence[Run]) -> dict[str, Any]:
    """`scores.json` of a folder. Raises `InputError` unless it is of these runs, `DamageError`
    where it is damaged."""
    path = out / SCORES_NAME
    if not path.is_file():
        raise InputError(f"no {SCORES_NAME} in {out}: make it with `anyscene benchmark score`")
    try:
        record = json.loads(path.read_text())
        scored = record["benchmark"]["sha256"], list(record["methods"])
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{path} is damaged; score the runs again") from None
    if scored[0] != benchmark.sha256:
        raise InputError(f"{path} is of another benchmark than {benchmark.folder}: score again")
    if scored[1] != sorted(run.name for run in runs):
        raise InputError(f"{path} is of {', '.join(record['methods'])}: score these runs again")
    # JSON has sorted the methods; the report has them as they were named
    record["methods"] = {run.name: record["methods"][run.name] for run in runs}
    return record


def grid_rows(out: Path, record: dict[str, Any]) -> tuple[str | None, list[tuple[int, str]]]:
    """The metric that ranks, and the scenes of the grid with what they are: best, median, worst."""
    ours = next((n for n, own in record["methods"].items() if own["method"] == OURS), None)
    figures = record["methods"][ours]["figures"] if ours else {}
    metric = next((name for name in RANKED_BY if name in figures), None)
    scenes = record["benchmark"]["scenes"]
    if metric is None:
        return None, [(n, "scene") for n in range(min(6, scenes))]
    with (out / TABLE_NAME).open(encoding="utf-8", newline="") as file:
        own = [row for row in csv.DictReader(file) if row["method"] == ours]
    order = list(dict.fromkeys(row["scene_id"] for row in own))
    values = {scene: [] for scene in order}
    for row in own:
        values[row["scene_id"]].append(float(row[metric] or "nan"))
    means = [float(np.mean(values[scene])) for scene in order]
    ranked = ranked_scenes(means, INFO[metric].better)
    return metric, [(n, f"{words} ({means[n]:.2g})") for words, own in ranked.items() for n in own]


def bar_plot(record: dict[str, Any], shown: Sequence[str]) -> str:
    """A panel a metric, a bar a method."""
    methods = record["methods"]
    panels = {
        heading(INFO[name]): {
            method: own["figures"][name]
            for method, own in methods.items()
            if name in own["figures"]
        }
        for name in shown
    }
    told = [method for method, own in methods.items() if own["told_the_answer"]]
    ours = next((method for method, own in methods.items() if own["method"] == OURS), None)
    measured = record["real"] or {}
    real = {
        heading(INFO[name]): measured[name]["value"]
        for name in shown
        if measured.get(name, {}).get("value") is not None
    }
    return bars(panels, ours, told, real)


def group_plot(record: dict[str, Any], shown: Sequence[str]) -> str | None:
    """A panel a metric, a row a layout or category; None where no group is large enough."""
    groups = record["groups"]
    if not groups:
        return None
    labels = {name: f"{name} ({own['scenes']})" for name, own in groups.items()}
    panels = {
        heading(INFO[metric]): {
            labels[name]: {
                method: figures[metric]
                for method in record["methods"]
                if metric in (figures := own["methods"][method])
            }
            for name, own in groups.items()
        }
        for metric in GROUPED
        if metric in shown
    }
    return by_category(panels, list(labels.values())) if panels else None


def summary(record: dict[str, Any]) -> str:
    """One line of what was compared."""
    own, sampling = record["benchmark"], record["sampling"]
    layouts = ", ".join(f"{count} {name}" for name, count in own["layouts"].items())
    units = own.get("units", own["scenes"])  # scores of before have none
    of = f" of {units} images or subjects" if units < own["scenes"] else ""
    return (
        f"{own['scenes']} scenes{of} ({layouts}), {sampling['images']} generation seed(s) each; "
        f"{len(record['methods'])} methods with the same scenes, noise, {sampling['scheduler']}, "
        f"{sampling['steps']} steps, guidance {sampling['guidance_scale']:g}."
    )


def origin(record: dict[str, Any]) -> str:
    """What kind of benchmark it is."""
    if record["benchmark"]["source"] == DEMO_SOURCE:
        return (
            "Procedural scenes with a known true shadow: an example of the evaluation, not a "
            "measure of quality on photos."
        )
    if record["benchmark"]["source"] == SUBJECTS:
        return (
            "A subject set: what subject-driven methods were fine-tuned on, one run a subject, is "
            "shown beside what they made. It has no real scenes, and no list of the paper's."
        )
    return (
        "A re-creation of the AnyScene paper's benchmark, whose list of images is not public: no "
        "figure here can be compared with one that is printed in the paper."
    )


def basis(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the figures come from."""
    rows = [("benchmark's sha256", record["benchmark"]["sha256"])]
    for name, own in record["methods"].items():
        blend = "" if own["blend"] is None else f", blended: {own['blend']['mode']}"
        layout = "" if own["layout"] is None else f", layout control: {own['layout']}"
        model = f"{own['model']} ({own['model_sha256'][:12]})"
        rows.append((name, f"{own['images']} images, model {model}{blend}{layout}"))
    details = next(iter(record["methods"].values()))["details"]
    for metric, values in details.items():
        made = ", ".join(f"{key} {value}" for key, value in values.items())
        rows.append((INFO[metric].title, made))
    if record["found_by"] is not None:
        rows.append(("judge", f"{record['found_by']}, of the final images"))
    return rows


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _embedded(grid: Image.Image) -> tuple[str, bytes]:
    """Kind and bytes of the grid in the page, which shall stay light."""
    if grid.width <= WIDEST:
        return "png", _png(grid)
    height = round(grid.height * WIDEST / grid.width)
    buffer = io.BytesIO()
    small = grid.convert("RGB").resize((WIDEST, height), Image.Resampling.LANCZOS)
    small.save(buffer, format="JPEG", quality=90)
    return "jpeg", buffer.getvalue()
