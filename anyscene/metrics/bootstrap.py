"""Confidence intervals of a mean over images."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

BATCH_NUMBERS = 4_000_000  # resampled numbers held at once


def bootstrap_interval(
    values: Sequence[float], seed: int, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """(low, high) of the mean of per-image values: bias-corrected and accelerated bootstrap.

    NaN values (images without the metric) are left out. The order of the values does not matter, so
    that the split over ranks does not. (NaN, NaN) with fewer than two values. Efron 1987.
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = np.sort(kept[~np.isnan(kept)])
    if len(kept) < 2:
        return math.nan, math.nan
    if kept[0] == kept[-1]:
        return float(kept[0]), float(kept[0])
    interval = stats.bootstrap(
        (kept,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, BATCH_NUMBERS // len(kept)),
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
