"""Confidence intervals of figures of images, by resampling the images."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

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


def draw_counts(images: int, resamples: int, seed: int) -> Tensor:
    """How often each image is drawn in each of `resamples` draws of as many with replacement.

    B N float64. A function of its arguments alone, so that two methods' draws can be paired.
    """
    random = np.random.default_rng(seed)
    even = np.full(images, 1 / images)
    return torch.from_numpy(random.multinomial(images, even, size=resamples).astype(np.float64))


def percentile_interval(replicates: Tensor, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of bootstrap replicates; NaN without any."""
    if not len(replicates):
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(replicates.cpu().numpy(), [tail, 1 - tail])
    return float(low), float(high)
