"""The plots of a benchmark's report, as SVG: bars with intervals, and dots by category."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Estimates = Mapping[str, Mapping[str, Any]]
"""`value` and `interval` (or None) by name."""

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "anyscene",
    "svg.fonttype": "path",
    "font.family": "sans-serif",
}
INK, FAINT, RULE, OURS, OTHER, TOLD = (
    "#1c1e21",
    "#6a7079",
    "#e3e5e8",
    "#3564a8",
    "#a9b4c4",
    "#d9c7a8",
)
COLOURS = ("#3564a8", "#bf5b17", "#3c8d5a", "#8a5aa8", "#b3923a", "#5f9ea0", "#9a4a5a", "#707a88")
PANEL_INCHES = (3.4, 0.3)  # width of a panel; height of a row
HEAD_INCHES = 0.75  # of a panel's title and its axis
LABEL_INCHES = 0.078  # of a character
COLUMNS = 3  # panels side by side


def bars(
    panels: Mapping[str, Estimates],
    ours: str | None,
    told: Sequence[str],
    real: Mapping[str, float],
) -> str:
    """SVG of a panel a metric and a bar a method, with 95 % intervals.

    Args:
        panels: a metric's title, and its estimates by method; a value that is None has no bar.
        ours: the method that is drawn in the strong colour.
        told: methods that are shown what is measured, in a third colour.
        real: the value of the real scenes by the metric's title, a dashed line.
    """
    names = list(dict.fromkeys(name for own in panels.values() for name in own))
    colours = [OURS if name == ours else TOLD if name in told else OTHER for name in names]
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(panels), names, foot=0.0)
        for panel, (title, own) in zip(axes, panels.items(), strict=False):
            values = [own.get(name, {}).get("value") for name in names]
            lengths = [0.0 if value is None else value for value in values]
            panel.barh(range(len(names)), lengths, color=colours, height=0.66)
            for place, name in enumerate(names):
                interval = own.get(name, {}).get("interval")
                if interval is not None:
                    panel.hlines(place, *interval, color=INK, linewidth=1.2)
            if title in real:
                panel.axvline(real[title], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            _style(panel, title, names)
        return _svg(figure)


def by_category(panels: Mapping[str, Mapping[str, Estimates]], labels: Sequence[str]) -> str:
    """SVG of a panel a metric, a row a group of scenes and a dot a method.

    `panels` has, by the metric's title and the group's label, the estimates by method.
    """
    names = list(
        dict.fromkeys(name for own in panels.values() for row in own.values() for name in row)
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = _panels(len(panels), labels, foot=0.7)
        for panel, (title, own) in zip(axes, panels.items(), strict=False):
            for place, name in enumerate(names):
                colour = COLOURS[place % len(COLOURS)]
                shift = (place - (len(names) - 1) / 2) * 0.8 / max(1, len(names))
                points = [own.get(label, {}).get(name, {}) for label in labels]
                known = [(y, p) for y, p in enumerate(points) if p.get("value") is not None]
                for y, point in known:
                    if point["interval"] is not None:
                        panel.hlines(y + shift, *point["interval"], color=colour, linewidth=0.9)
                panel.plot(
                    [point["value"] for _, point in known],
                    [y + shift for y, _ in known],
                    "o",
                    color=colour,
                    markersize=3.2,
                    label=name,
                )
            _style(panel, title, labels)
        handles, shown = axes[0].get_legend_handles_labels()
        figure.legend(handles, shown, loc="lower center", ncols=4, frameon=False, fontsize=8)
        return _svg(figure)


def _panels(count: int, labels: Sequence[str], foot: float) -> tuple[Figure, list[Axes]]:
    """Panels of a row a label, in lines of COLUMNS; the first of a line has the labels.

    `foot` is free space under them, in inches.
    """
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    left = 0.2 + LABEL_INCHES * max(map(len, labels))
    width = left + columns * PANEL_INCHES[0]
    height = lines * (HEAD_INCHES + len(labels) * PANEL_INCHES[1]) + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    body = (height - foot) / lines
    figure.subplots_adjust(
        left=left / width,
        right=1 - 0.15 / width,
        bottom=(foot + 0.35) / height,
        top=1 - 0.35 / height,
        wspace=0.1,
        hspace=HEAD_INCHES / (body - HEAD_INCHES),
    )
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes[:count]


def _style(panel: Axes, title: str, labels: Sequence[str]) -> None:
    panel.set_title(title, fontsize=9.5, color=INK, loc="left")
    panel.set_yticks(range(len(labels)), labels, fontsize=8.5, color=INK)
    panel.set_ylim(len(labels) - 0.4, -0.6)
    panel.xaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))
    panel.tick_params(length=0, labelsize=8.5, labelcolor=INK)
    panel.grid(axis="x", color=RULE, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
