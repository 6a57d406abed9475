"""Intervals and tests of figures from people who rate foregrounds, both drawn at random.

A figure (a mean, a difference of two, a log-strength) is cut into what each cell, one person with
one foreground, adds to its deviation. Scaled by the number of cells these are pseudo-values with

    x_pf = figure + person_p + foreground_f + rest_pf,

crossed random effects of people and foregrounds. With equally many ratings a cell they are just
the cells' means. What prompts, images and single ratings vary by is in `foreground_f`, as far as
people share it, and in `rest_pf`. Each figure has a model of its own: a method's `person_p` is the
person's leniency and liking for the method together, and a difference keeps the second only.

Variance components come from the moments of Henderson's method 1 (Biometrics 9, 1953, equations
in Searle, Casella, McCulloch, Variance Components, 1992, section 5.3), which hold with empty cells
too; in full tables they are those of REML. They are fitted here and not with statsmodels' MixedLM
for three reasons: MixedLM takes 4 s for one figure of 3,000 cells of people and prompts, its
normal quantiles cover too little with ten people, and it may not converge with few. Quantiles are
Student's t with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). Intervals of
means are symmetric after an arcsine transform: near an end of the scale others miss on one side.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

Codes = NDArray[np.intp]
Floats = NDArray[np.float64]

LEAST_VARIANCE = 1e-12  # of the pseudo-values' own: rounding
TIE_DIGITS = 9  # to which permuted statistics are equal


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; NaN, and why, where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan
    standard_error: float = np.nan
    degrees_of_freedom: float = np.nan
    missing: str = ""


@dataclass(frozen=True)
class _Moments:
    """Expected sums of squares (of people, foregrounds, rest) of a pattern of filled cells."""

    coefficients: Floats  # 3 3: of the variance components in each sum of squares
    shares: Floats  # 3: of the variance components in the variance of the mean
    degrees_of_freedom: Floats  # 3

    @classmethod
    def of(cls, present: NDArray[np.bool_]) -> "_Moments":
        cells, (people, foregrounds) = present.sum(), present.shape
        per_person = (present.sum(1) ** 2).sum() / cells
        per_foreground = (present.sum(0) ** 2).sum() / cells
        rest = cells - people - foregrounds + 1
        rows = [
            [cells - per_person, people - per_foreground, people - 1],
            [foregrounds - per_person, cells - per_foreground, foregrounds - 1],
            [per_person - foregrounds, per_foreground - people, rest],
        ]
        shares = np.array([per_person, per_foreground, 1]) / cells
        own = np.array([people - 1, foregrounds - 1, rest], float)
        return cls(np.array(rows, float), shares, own)

    def missing(self) -> str:
        """Why the components cannot be told apart; empty if they can."""
        people, foregrounds, rest = self.degrees_of_freedom
        if people < 1:
            return "ratings of one person only"
        if foregrounds < 1:
            return "ratings of one foreground only"
        if rest < 1 or np.linalg.matrix_rank(self.coefficients) < 3:
            return "too few foregrounds are rated by several people"
        return ""

    def components(self, squares: Floats) -> Floats:
        """Variance components (3 ...) of sums of squares (3 ...); negative ones count as zero."""
        return np.linalg.solve(self.coefficients, squares).clip(0)

    def variance_of_mean(self, squares: Floats) -> Floats:
        """Of sums of squares (3 ...)."""
        return np.tensordot(self.shares, self.components(squares), 1)

    def satterthwaite(self, squares: Floats) -> float:
        """Degrees of freedom of `variance_of_mean`, of sums of squares (3); at least 1."""
        counted = self.shares * (self.components(squares) > 0)
        parts = np.linalg.solve(self.coefficients.T, counted) * squares
        return max(1.0, float(parts.sum() ** 2 / (parts**2 / self.degrees_of_freedom).sum()))


def cell_sums(people: Codes, foregrounds: Codes, values: Floats) -> Floats:
    """Sums of N values over people x foregrounds, whose codes are from 0; NaN for empty cells.

    NaN values count as not there.
    """
    shape = int(people.max()) + 1, int(foregrounds.max()) + 1
    known = ~np.isnan(values)
    cells = np.ravel_multi_index((people[known], foregrounds[known]), shape)
    sums = np.bincount(cells, values[known], minlength=shape[0] * shape[1])
    filled = np.bincount(cells, minlength=shape[0] * shape[1]) > 0
    return np.where(filled, sums, np.nan).reshape(shape)


def crossed_interval(value: float, contributions: Floats, level: float = 0.95) -> Interval:
    """The interval that would hold for other people and other foregrounds.

    Args:
        value: the figure.
        contributions: what each cell adds to the figure's deviation, people x foregrounds; the sum
            is zero. NaN: the person did not rate the foreground.
        level: confidence.
    """
    cells = _pseudo_values(value, contributions)
    present = ~np.isnan(cells)
    moments = _Moments.of(present)
    missing = moments.missing()
    if missing:
        return Interval(value, missing=missing)
    squares = _sums_of_squares(np.nan_to_num(cells), present, np.ones((1, len(cells))))[:, 0]
    variance = float(moments.variance_of_mean(squares))
    if variance <= LEAST_VARIANCE * np.nanmean(cells**2):
        return Interval(value, missing="the ratings do not vary")
    error, freedom = variance**0.5, moments.satterthwaite(squares)
    reach = float(stats.t.ppf(0.5 + level / 2, freedom)) * error
    return Interval(value, value - reach, value + reach, error, freedom)


def within(interval: Interval, low: float, high: float) -> Interval:
    """The interval of a mean of numbers in [low, high], kept inside.

    It is symmetric in the arcsine of the root of the share of the way from `low` to `high`, which
    steadies the variance of shares (Bartlett, Biometrics 3, 1947).
    """
    if interval.missing:
        return interval
    share = (interval.value - low) / (high - low)
    reach = (interval.high - interval.value) / (high - low) / (2 * np.sqrt(share * (1 - share)))
    angles = np.arcsin(np.sqrt(share)) + np.array([-reach, reach])
    first, last = low + (high - low) * np.sin(angles.clip(0, np.pi / 2)) ** 2
    return replace(interval, low=float(first), high=float(last))


def swap_p_value(
    value: float, contributions: Floats, rng: Generator, resamples: int = 9999
) -> tuple[float, str]:
    """Two-sided p of a difference being zero, by swapping the labels of two methods; or why not.

    What is exchangeable without a difference is not the single rating: who likes a method likes
    most of its images, and a foreground that suits it suits it for everyone. Swapping within single
    ratings or cells calls half of all pairs of equal methods different at 5 %. So labels are
    swapped for whole people, and again for whole foregrounds. With full cells each test is exact
    for the other side as it is; the statistic is divided by the standard error of
    `crossed_interval`, which counts both, so that each about holds for both (Chung and Romano,
    Annals of Statistics 41, 2013). The larger p counts. It cannot be below `least_p`.
    Arguments as above.
    """
    cells = _pseudo_values(value, contributions)
    missing = _Moments.of(~np.isnan(cells)).missing()
    if missing:
        return np.nan, missing
    return max(_swap_rows(cells, rng, resamples), _swap_rows(cells.T, rng, resamples)), ""


def least_p(people: int, foregrounds: int) -> float:
    """The smallest p there can be: of all swaps one and its opposite are as clear as what was."""
    return 2 / 2 ** min(people, foregrounds)


def _pseudo_values(value: float, contributions: Floats) -> Floats:
    """People x foregrounds, without rows and columns that are all empty; their mean is `value`."""
    filled = ~np.isnan(contributions)
    kept = contributions[filled.any(1)][:, filled.any(0)]
    return value + kept * filled.sum()


def _sums_of_squares(cells: Floats, present: NDArray[np.bool_], signs: Floats) -> Floats:
    """Henderson's, 3 x B, of cells with zeros where empty, rows times each of B x rows signs."""
    count = present.sum()
    rows = cells.sum(1)
    overall = (signs @ rows) ** 2 / count
    by_row = (rows**2 / present.sum(1)).sum()
    by_column = ((signs @ cells) ** 2 / present.sum(0)).sum(1)
    rest = (cells**2).sum() - by_row - by_column + overall
    return np.stack([by_row - overall, by_column - overall, rest])


def _swap_rows(cells: Floats, rng: Generator, resamples: int) -> float:
    """All swaps where there are at most `resamples`, otherwise so many random ones."""
    present = ~np.isnan(cells)
    cells = np.nan_to_num(cells)
    moments = _Moments.of(present)
    least = LEAST_VARIANCE * (cells**2).sum() / present.sum() ** 2
    if least == 0:
        return 1.0

    def statistic(signs: Floats, _swapped: Floats, axis: int = -1) -> Any:
        """|t| of rows times signs, B x rows or rows."""
        assert axis == -1
        table = np.atleast_2d(signs)
        variance = moments.variance_of_mean(_sums_of_squares(cells, present, table))
        means = table @ cells.sum(1) / present.sum()
        return np.squeeze(np.round(abs(means) / np.sqrt(variance.clip(least)), TIE_DIGITS))

    ones = np.ones(len(cells))
    result = stats.permutation_test(
        (ones, -ones),
        statistic,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        alternative="greater",
        rng=rng,
    )
    return float(result.pvalue)
