"""The tables of a benchmark's report: texts of what `scores.json` says, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyscene.metrics.catalogue import Better, MetricInfo

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A figure for people."""

    text: str
    detail: str = ""  # its interval or spread
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head."""

    head: list[str]
    rows: list[tuple[str, list[Cell]]]


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits; a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value + 0.0:.{digits}g}"  # no minus before a zero
    if "e+" in text:
        text = f"{value:.0f}"
    return text.replace("-", MINUS)


def figure_cell(figure: dict[str, Any] | None, scenes: int, best: bool) -> Cell:
    """A figure with its interval, or the spread over generation seeds; n where not all count."""
    if figure is None or figure["value"] is None:
        return Cell(number(None))
    details = []
    if figure.get("interval"):
        details.append(" to ".join(number(bound) for bound in figure["interval"]))
    if figure.get("spread") is not None:
        details.append(f"±{number(figure['spread'], 2)} over {len(figure['seeds'])} seeds")
    if figure.get("scenes", scenes) != scenes:
        details.append(f"n={figure['scenes']}")
    return Cell(number(figure["value"]), ", ".join(details), best)


def main_table(record: dict[str, Any], names: Sequence[str], info: dict[str, MetricInfo]) -> Table:
    """A row a method and a column a metric; the best of those that are no bound is marked."""
    methods = record["methods"]
    scenes = record["benchmark"]["scenes"]
    rivals = [name for name, own in methods.items() if not own["told_the_answer"]]
    best = {name: _best(record, rivals, name, info[name].better) for name in names}
    rows = []
    if record["real"]:
        cells = [figure_cell(record["real"].get(name), scenes, False) for name in names]
        rows.append(("the real scenes", cells))
    for method, own in methods.items():
        cells = [
            figure_cell(own["figures"].get(name), scenes, best[name] == method) for name in names
        ]
        rows.append((method + (" *" if own["told_the_answer"] else ""), cells))
    return Table([heading(info[name]) for name in names], rows)


def heading(info: MetricInfo) -> str:
    """A metric's title with its unit and an arrow to where it is better."""
    unit = f", {info.unit}" if info.unit else ""
    return f"{info.title}{unit} {'↑' if info.better is Better.higher else '↓'}"


def comparison_table(record: dict[str, Any], info: dict[str, MetricInfo]) -> Table:
    """Ours against the best other method, a row a metric."""
    rows = []
    for name in info:
        pair = record["comparisons"].get(name, {}).get("ours_against_best_other")
        if pair is None:
            continue
        interval = pair["interval"]
        rows.append(
            (
                heading(info[name]),
                [
                    Cell(pair["against"]),
                    Cell(
                        number(pair["advantage"]),
                        " to ".join(map(number, interval)) if interval else "",
                        best=bool(interval) and interval[0] > 0,
                    ),
                    Cell("" if pair["p"] is None else number(pair["p"], 2)),
                    Cell(str(pair["scenes"])),
                ],
            )
        )
    return Table(["best other method", "advantage of anyscene (95 %)", "p", "scenes"], rows)


def against_best_table(record: dict[str, Any], metric: str) -> Table:
    """The best method of a metric against all others."""
    entry = record["comparisons"][metric]
    rows = [
        (
            pair["against"],
            [
                Cell(
                    number(pair["advantage"]),
                    " to ".join(map(number, pair["interval"])) if pair["interval"] else "",
                ),
                Cell("" if pair["p"] is None else number(pair["p"], 2)),
                Cell(str(pair["scenes"])),
            ],
        )
        for pair in entry["against_others"]
    ]
    return Table([f"behind {entry['best']} by (95 %)", "p", "scenes"], rows)


def _best(record: dict[str, Any], rivals: Sequence[str], metric: str, better: Better) -> str | None:
    values = {
        name: figure["value"]
        for name in rivals
        if (figure := record["methods"][name]["figures"].get(metric))
        and figure["value"] is not None
    }
    if not values:
        return None
    choose = max if better is Better.higher else min
    return choose(values, key=lambda name: values[name])
