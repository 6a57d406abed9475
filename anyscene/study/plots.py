"""The plots of a study's report: dots with intervals, one panel a criterion, as SVG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "anyscene",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
}
INK, FAINT, RULE, EVERYONE, KEPT = "#1c1e21", "#6a7079", "#e3e5e8", "#3564a8", "#bf5b17"
WIDTH = 10.6  # inches
ROW = 0.34  # inches a row, and as much again for each further analysis
LABEL_INCHES = 0.085  # of a character at most
APART = 0.17  # rows between the analyses of a method


@dataclass(frozen=True)
class Axis:
    """The horizontal axis that all panels share."""

    label: str
    low: float | None = None  # None: as far as intervals reach
    high: float | None = None
    reference: float | None = None  # where a vertical line stands


def dot_plot(
    analyses: Sequence[tuple[str, pd.DataFrame]],
    criteria: Sequence[tuple[str, str]],
    axis: Axis,
) -> str:
    """SVG of a panel a criterion and a row a label.

    Args:
        analyses: name, and rows with `criterion`, `label`, `value`, `low`, `high`. A value that
            is NaN is left out; an interval that is NaN leaves the dot.
        criteria: name and title.
        axis: of the values.
    """
    labels = list(dict.fromkeys(label for _, rows in analyses for label in rows["label"]))
    height = 1.15 + len(labels) * ROW * (1 + 0.4 * (len(analyses) - 1))
    left = 0.25 + LABEL_INCHES * max(map(len, labels))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        panels = figure.subplots(1, len(criteria), sharex=True, sharey=True, squeeze=False)[0]
        figure.subplots_adjust(left / WIDTH, 0.72 / height, 0.985, 1 - 0.4 / height, wspace=0.12)
        for panel, (criterion, title) in zip(panels, criteria, strict=True):
            _style(panel, title, labels, axis)
            for place, (name, rows) in enumerate(analyses):
                shift = (place - (len(analyses) - 1) / 2) * 2 * APART
                own = rows[rows["criterion"] == criterion].set_index("label").reindex(labels)
                _draw(panel, own, shift, name, (EVERYONE, KEPT)[place])
        if len(analyses) > 1:
            handles, names = panels[0].get_legend_handles_labels()
            figure.legend(handles, names, loc="lower left", ncols=2, frameon=False, fontsize=9)
        figure.supxlabel(axis.label, fontsize=9.5, color=FAINT, y=0.1 / height)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _style(panel: Axes, title: str, labels: Sequence[str], axis: Axis) -> None:
    panel.set_title(title, fontsize=10.5, color=INK, loc="left")
    panel.set_yticks(range(len(labels)), labels, fontsize=10, color=INK)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    if axis.low is not None and axis.high is not None:
        margin = 0.03 * (axis.high - axis.low)
        panel.set_xlim(axis.low - margin, axis.high + margin)
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
    panel.tick_params(length=0, labelsize=9.5, labelcolor=INK)
    panel.grid(axis="x", color=RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)
    if axis.reference is not None:
        panel.axvline(axis.reference, color=FAINT, linewidth=1)


def _draw(panel: Axes, rows: pd.DataFrame, shift: float, name: str, colour: str) -> None:
    """Dots and intervals of one analysis."""
    places = [place + shift for place in range(len(rows))]
    panel.hlines(places, rows["low"], rows["high"], color=colour, linewidth=2)
    filled = colour if colour == EVERYONE else "white"
    panel.plot(
        rows["value"], places, "o", color=colour, markerfacecolor=filled, markersize=5.5, label=name
    )
