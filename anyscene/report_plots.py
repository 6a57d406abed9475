"""The plots of a report: inline SVG that takes fonts and colours from the page around it."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

Series = dict[int, float]
"""Finite values by step, in the order of steps."""

Limits = tuple[float | None, float | None]
"""What an axis reaches at least; None: as far as the values do."""

FAINT, RULE, TRAIN, VALIDATION = (f"#00000{number}" for number in range(1, 5))
VARIABLES = {FAINT: "--faint", RULE: "--rule", TRAIN: "--train", VALIDATION: "--validation"}
"""Colours that plots are drawn with, and the page's CSS variables that take their place."""

STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "anyscene"}
POINTS_PER_INCH = 72  # a point is drawn as one CSS pixel
SMOOTHED_SHARE = 0.05  # of the logged values: the window of the running mean
LOG_RATIO = 8  # of the largest to the smallest loss: from here on the axis is logarithmic
LABEL_DISTANCE = 0.09  # of the axis: labels nearer to each other are pushed apart
MARKED_POINTS = 40  # at most; longer curves have no markers


def loss_plot(train: Series, validation: Series, restarts: Sequence[int]) -> Markup:
    """Both losses over steps, the training loss raw and as a running mean. One may be empty."""
    figure, axes = _axes((1064, 290), left=32, right=120, ticks=(8, 5))
    ends = []
    if train:
        steps, raw = np.array(list(train)), np.array(list(train.values()))
        window = smoothing_window(len(raw))
        smooth = running_mean(raw, window)
        if window > 1:
            axes.plot(steps, raw, color=TRAIN, alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth, color=TRAIN, linewidth=1.8)
        ends.append(("training", TRAIN, float(smooth[-1])))
    if validation:
        _marked(axes, validation, VALIDATION)
        ends.append(("validation", VALIDATION, list(validation.values())[-1]))
    values = [*train.values(), *validation.values()]
    if min(values) > 0 and max(values) / min(values) > LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_minor_locator(NullLocator())
    _finish(axes, [*train, *validation], restarts)
    _label_ends(axes, ends)
    return _svg(figure, "loss", "Training and validation loss over steps")


def small_plot(
    name: str,
    points: Series,
    restarts: Sequence[int],
    *,
    colour: str,
    limits: Limits = (None, None),
    last_step: int = 0,
    real: float | None = None,
) -> Markup:
    """One small curve, up to `last_step` at least. `real`: a dashed line of that value."""
    figure, axes = _axes((250, 130), left=42, right=12, ticks=(4, 3))
    _marked(axes, points, colour)
    shown = [*points.values()]
    if real is not None:
        shown.append(real)
        axes.axhline(real, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        beside = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
        axes.annotate("real scenes", (0, real), (3, 3), color=FAINT, fontsize=10, **beside)
    shown += [limit for limit in limits if limit is not None]
    span = max(shown) - min(shown)
    margin = max(0.06 * span, 0.01 * max(map(abs, shown))) or 1.0  # a flat curve looks flat
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    _finish(axes, [*points, last_step], restarts)
    return _svg(figure, name, f"{name} over steps")


def smoothing_window(count: int) -> int:
    """How many of `count` values the running mean takes; odd, 1 for short curves."""
    return int(count * SMOOTHED_SHARE) // 2 * 2 + 1


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The centred mean over `window` values; near the ends over those that are there."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _axes(
    size: tuple[int, int], *, left: int, right: int, ticks: tuple[int, int]
) -> tuple[Figure, Axes]:
    """Empty axes with horizontal rules only; margins in CSS pixels, about so many ticks."""
    width, height = size
    bottom, top = 22, 12
    figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelcolor=FAINT, length=0, labelsize=11, pad=6)
    for axis, count in zip((axes.xaxis, axes.yaxis), ticks, strict=True):
        whole = axis is axes.xaxis
        axis.set_major_locator(MaxNLocator(count, steps=(1, 2, 2.5, 5, 10), integer=whole))
        axis.set_major_formatter(FuncFormatter(_tick))
    return figure, axes


def _tick(value: float, _position: int | None = None) -> str:
    """A label of an axis: 1,500 or 20k or 2e-5."""
    text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:,.4g}"
    return re.sub(r"e-0*", "e-", text).replace("-", "\N{MINUS SIGN}")


def _marked(axes: Axes, points: Series, colour: str) -> None:
    """A line, with a marker a point where they are few."""
    marker = "o" if len(points) <= MARKED_POINTS else ""
    steps, values = list(points), list(points.values())
    axes.plot(
        steps, values, color=colour, linewidth=1.6, marker=marker, markersize=4, clip_on=False
    )


def _finish(axes: Axes, steps: Sequence[int], restarts: Sequence[int]) -> None:
    """The horizontal range from step 0, and a dotted line at each restart."""
    axes.set_xlim(0, max(*steps, 1))
    for step in restarts:
        axes.axvline(step, color=FAINT, linewidth=1, linestyle=(0, (1, 2)))


def _label_ends(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """(name, colour, last value) of each curve beside its right end, none over another."""
    to_share = axes.transData + axes.transAxes.inverted()
    place = {"transform": axes.transAxes, "va": "center", "fontsize": 12}
    lowest = -np.inf
    for name, colour, value in sorted(ends, key=lambda end: end[2]):
        height = max(float(to_share.transform((0, value))[1]), lowest)
        axes.text(1.012, height, f"{name} {value:.3g}", color=colour, **place)
        lowest = height + LABEL_DISTANCE


def _svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as an element of an HTML page.

    Its identifiers begin with `name`, so that no two plots of a page share one; size, fonts and
    colours are left to the page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg")
    size = " ".join(f"{inches * POINTS_PER_INCH:g}" for inches in figure.get_size_inches())
    text = buffer.getvalue()
    text = text[text.index("</defs>") + len("</defs>") :]  # no prologue, date, style sheet
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'(\bid="|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(f'<svg viewBox="0 0 {size}" role="img" aria-label="{escape(title)}">{text}')
