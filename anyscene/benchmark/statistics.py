"""Means with intervals, comparisons in pairs, and groups of scenes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from anyscene.benchmark.scenes import Benchmark, BenchmarkScene, categories_of
from anyscene.metrics.bootstrap import bootstrap_interval, known_interval
from anyscene.metrics.catalogue import Better

Column = NDArray[np.float64]
"""A value a scene, the mean over its generation seeds; NaN where it has none."""

Units = NDArray[np.int64]
"""The number of the unit that each scene belongs to. Scenes around elements of one image, or of one
subject, depend on each other: they are drawn together, and count as one in a test."""


class Estimate(TypedDict):
    """A mean over scenes."""

    value: float | None  # None: no scene has the value
    interval: list[float] | None  # 95 %, bootstrap over units; None: fewer than two
    scenes: int


class Comparison(TypedDict):
    """One method against another on the same scenes, in the better direction."""

    method: str
    against: str
    advantage: float  # mean of the paired differences; above 0: `method` is better
    interval: list[float] | None  # 95 %, bootstrap over units
    p: float | None  # Wilcoxon's signed-rank test, two-sided, Holm over the methods compared
    scenes: int


def scene_means(values: NDArray[np.float64]) -> Column:
    """The mean over the repeats (columns) that have the value."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def units_of(benchmark: Benchmark) -> Units:
    """The unit of each scene: its (first) subject, or the image whose elements it is built on."""
    numbers: dict[str, int] = {}
    return np.array(
        [numbers.setdefault(_unit(scene), len(numbers)) for scene in benchmark.scenes], np.int64
    )


def _unit(scene: BenchmarkScene) -> str:
    if subjects := scene.get("subjects"):
        return f"subject {subjects[0]['name']}"
    return f"image {scene['source_images'][0]}"


def estimate(column: Column, units: Units | None = None) -> Estimate:
    """Mean and interval of the scenes that have the value; without `units` each is its own."""
    known = column[~np.isnan(column)]
    if not len(known):
        return Estimate(value=None, interval=None, scenes=0)
    interval = _interval(column, units)
    return Estimate(value=float(known.mean()), interval=interval, scenes=len(known))


def compare(
    columns: Mapping[str, Column], reference: str, better: Better, units: Units | None = None
) -> list[Comparison]:
    """Every other method against `reference`, which is the one that should be better."""
    sign = 1.0 if better is Better.higher else -1.0
    results: list[Comparison] = []
    for name, column in columns.items():
        if name == reference:
            continue
        differences = sign * (columns[reference] - column)
        known = differences[~np.isnan(differences)]
        if not len(known):
            continue
        results.append(
            Comparison(
                method=reference,
                against=name,
                advantage=float(known.mean()),
                interval=_interval(differences, units),
                p=signed_rank(unit_means(differences, units)),
                scenes=len(known),
            )
        )
    adjusted = holm([result["p"] for result in results])
    for result, p in zip(results, adjusted, strict=True):
        result["p"] = p
    return results


def unit_means(column: Column, units: Units | None) -> Column:
    """The mean of each unit's scenes that have the value, of those units that have some."""
    known = ~np.isnan(column)
    if units is None:
        return column[known]
    _, places = np.unique(units[known], return_inverse=True)
    return np.bincount(places, column[known]) / np.bincount(places)


def signed_rank(differences: Column) -> float | None:
    """Wilcoxon's p, two-sided; 1 where all differences are 0, None with fewer than two."""
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    test: Any = stats.wilcoxon(differences, zero_method="pratt")
    return float(test.pvalue)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for as many tests as there are (Holm 1979)."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = list(values)
    running = 0.0
    for rank, (p, place) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        adjusted[place] = running
    return adjusted


def best_of(columns: Mapping[str, Column], better: Better) -> str | None:
    """The method with the best mean; None where none has a value."""
    means = {name: float(np.nanmean(c)) for name, c in columns.items() if not np.isnan(c).all()}
    if not means:
        return None
    choose = max if better is Better.higher else min
    return choose(means, key=lambda name: means[name])


def groups(benchmark: Benchmark, least: int) -> dict[str, list[int]]:
    """Numbers of the scenes of each layout and each category that has at least `least` of them."""
    found: dict[str, list[int]] = {}
    for number, scene in enumerate(benchmark.scenes):
        names = [f"layout: {scene['layout']}", *categories_of(scene)]
        for name in names:
            found.setdefault(name, []).append(number)
    return {name: own for name, own in sorted(found.items()) if len(own) >= least}


def _interval(values: Column, units: Units | None) -> list[float] | None:
    numbers = None if units is None else units.tolist()
    found = known_interval(bootstrap_interval(values.tolist(), seed=0, units=numbers))
    return None if found is None else list(found)
