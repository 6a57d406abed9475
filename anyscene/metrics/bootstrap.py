"""Confidence intervals of figures of images, by resampling the images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

BATCH_NUMBERS = 4_000_000  # resampled numbers held at once
UNDEFINED_DRAWS = 0.05  # largest share of replicates without a value


def bootstrap_interval(
    values: Sequence[float],
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
    units: Sequence[int] | None = None,
) -> tuple[float, float]:
    """(low, high) of the mean of per-image values: bias-corrected and accelerated bootstrap.

    `units` numbers what each value is drawn with: values that depend on each other (scenes of one
    subject) are one unit, for drawn apart they make the interval too narrow (Davison and Hinkley
    1997, section 3.8). None: each value by itself. NaN values (images without the metric) are left
    out. The order of the values does not matter, so that the split over ranks does not. (NaN, NaN)
    with fewer than two units. Efron 1987.
    """
    kept = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(kept)
    numbers = np.arange(len(kept)) if units is None else np.asarray(units)
    _, places = np.unique(numbers[known], return_inverse=True)
    kept = kept[known]
    if len(kept) < 2 or not places.any():
        return math.nan, math.nan
    if kept.min() == kept.max():
        return float(kept[0]), float(kept[0])
    totals, counts = np.bincount(places, kept), np.bincount(places).astype(np.float64)
    order = np.lexsort((counts, totals))
    alone = len(totals) == len(kept)  # each value its own unit: a mean, at half the time
    interval = stats.bootstrap(
        (totals[order],) if alone else (totals[order], counts[order]),
        np.mean if alone else _mean_of_units,
        paired=not alone,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // len(totals)),
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _mean_of_units(totals: Any, counts: Any, axis: int = -1) -> Any:
    return totals.sum(axis=axis) / counts.sum(axis=axis)


def draw_counts(images: int, resamples: int, seed: int) -> Tensor:
    """How often each image is drawn in each of `resamples` draws of as many with replacement.

    B N float64. A function of its arguments alone, so that two methods' draws can be paired.
    """
    random = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    return torch.from_numpy(random.multinomial(images, even, size=resamples).astype(np.float64))


def percentile_interval(replicates: Tensor, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of bootstrap replicates; NaN without any.

    A replicate of KID or CMMD is NaN where one image alone was drawn, which has no pair: those few
    of a small set are left out, and a set of two or three images, with many, has no interval.
    """
    known = replicates[~replicates.isnan()].cpu().numpy()
    if len(known) <= (1 - UNDEFINED_DRAWS) * len(replicates):
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def known_interval(interval: tuple[float, float]) -> tuple[float, float] | None:
    """The interval, None where there is none."""
    return None if any(map(math.isnan, interval)) else interval
