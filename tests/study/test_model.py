"""Crossed random effects: against statsmodels' REML, closed forms and every swap there is."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formula
from scipy import stats
from statsmodels.stats.anova import anova_lm

from anyscene.study.model import Interval, cell_sums, crossed_interval, swap_p_value, within

STRONG = {"person": 0.6, "foreground": 0.5, "rest": 0.4}  # effects that statsmodels converges on


def table(people=6, foregrounds=9, seed=0, mean=2.0, person=0.4, foreground=0.3, rest=0.5):
    rng = np.random.default_rng(seed)
    people_effect = rng.normal(0, person, (people, 1))
    foreground_effect = rng.normal(0, foreground, foregrounds)
    return mean + people_effect + foreground_effect + rng.normal(0, rest, (people, foregrounds))


def interval(cells, level=0.95):
    """Of the mean of cells that count alike; NaN: empty."""
    mean = np.nanmean(cells)
    return crossed_interval(mean, (cells - mean) / np.isfinite(cells).sum(), level)


def long_form(cells):
    person, foreground = np.nonzero(np.isfinite(cells))
    columns = {"y": cells[person, foreground], "person": person, "foreground": foreground}
    return pd.DataFrame({**columns, "all": 1})


def reml(cells):
    """statsmodels' fit of the same model."""
    effects = {"person": "0 + C(person)", "foreground": "0 + C(foreground)"}
    model = formula.mixedlm("y ~ 1", long_form(cells), groups="all", vc_formula=effects)
    return model.fit(reml=True)


@pytest.mark.parametrize("seed", range(3))
def test_mean_and_error_of_a_full_table_are_those_of_statsmodels_reml(seed):
    cells = table(8, 12, seed, **STRONG)
    fit, own = reml(cells), interval(cells)
    assert own.value == pytest.approx(fit.fe_params.iloc[0])
    assert own.standard_error == pytest.approx(fit.bse.iloc[0], rel=1e-3)


def test_error_of_a_table_with_gaps_is_that_of_statsmodels_components():
    """The plain mean's, as REML's components have it; statsmodels itself weights the cells."""
    ratios = []
    for seed in range(8):
        cells = table(8, 12, seed, **STRONG)
        cells[np.random.default_rng(seed).random(cells.shape) < 0.2] = np.nan
        filled = np.isfinite(cells)
        foreground, person = reml(cells).vcomp
        variance = person * (filled.sum(1) ** 2).sum() + foreground * (filled.sum(0) ** 2).sum()
        variance = (variance + reml(cells).scale * filled.sum()) / filled.sum() ** 2
        ratios.append(interval(cells).standard_error / variance**0.5)
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)
    assert np.std(ratios) < 0.08


def test_degrees_of_freedom_are_satterthwaites():
    cells = table(seed=4)
    squares = anova_lm(formula.ols("y ~ C(person) + C(foreground)", long_form(cells)).fit())
    person, foreground, rest = squares["mean_sq"]
    variance = (person + foreground - rest) / cells.size
    wanted = (person + foreground - rest) ** 2 / (
        person**2 / squares["df"].iloc[0]
        + foreground**2 / squares["df"].iloc[1]
        + rest**2 / squares["df"].iloc[2]
    )
    own = interval(cells, 0.9)
    assert own.standard_error == pytest.approx(variance**0.5)
    assert own.degrees_of_freedom == pytest.approx(wanted)
    assert own.high - own.value == pytest.approx(stats.t.ppf(0.95, wanted) * variance**0.5)


def test_a_component_that_would_be_negative_counts_as_zero():
    cells = table(person=0)
    cells -= cells.mean(1, keepdims=True)  # people differ less than the rest would make them
    squares = anova_lm(formula.ols("y ~ C(foreground)", long_form(cells)).fit())["mean_sq"]
    own = interval(cells)
    assert own.standard_error == pytest.approx((squares.iloc[0] / cells.size) ** 0.5)
    assert own.degrees_of_freedom == pytest.approx(cells.shape[1] - 1)


def test_interval_does_not_depend_on_order_unit_or_which_side_people_are():
    cells = table(seed=5)
    cells[2, 3] = np.nan
    own, rng = interval(cells), np.random.default_rng(0)
    shuffled = cells[rng.permutation(6)][:, rng.permutation(9)]
    assert interval(shuffled).low == pytest.approx(own.low)
    assert interval(cells.T).low == pytest.approx(own.low)
    assert interval(3 * cells + 7).high == pytest.approx(3 * own.high + 7)
    padded = np.pad(cells, ((0, 2), (0, 1)), constant_values=np.nan)
    assert interval(padded).low == pytest.approx(own.low)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (table(people=1), "ratings of one person only"),
        (table(foregrounds=1), "ratings of one foreground only"),
        (np.where(np.eye(4, dtype=bool), 1.0, np.nan), "too few foregrounds"),
        (np.full((4, 5), 3.0), "the ratings do not vary"),
        (3 + 1e-14 * table(4, 5), "the ratings do not vary"),  # but for rounding
    ],
)
def test_an_interval_that_cannot_be_says_why(cells, reason):
    found = interval(cells)
    assert reason in found.missing
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high, found.standard_error]).all()


def test_any_small_study_has_an_interval_or_a_reason():
    rng = np.random.default_rng(0)
    reasons = set()
    for _ in range(200):
        cells = rng.integers(1, 5, rng.integers(1, 6, 2)).astype(float)
        cells[rng.random(cells.shape) < rng.choice([0, 0.3])] = np.nan
        if np.isfinite(cells).any():
            found = interval(cells)
            reasons.add(found.missing)
            assert np.isfinite([found.low, found.high]).all() == (found.missing == "")
            assert not found.degrees_of_freedom < 1
            p_value(cells, resamples=99)
    assert len(reasons) == 4


def test_interval_within_a_scale_stays_inside_and_agrees_in_the_middle():
    middle = within(Interval(2.5, 2.4, 2.6), 1, 4)
    assert (middle.low, middle.high) == pytest.approx((2.4, 2.6), abs=1e-3)
    edge = within(Interval(3.8, 3.5, 4.1), 1, 4)
    assert 3.3 < edge.low < 3.5
    assert 3.9 < edge.high < 4
    assert within(Interval(3.8, 3.2, 4.4), 1, 4).high == 4
    without = Interval(2.0, missing="so")
    assert within(without, 1, 4) is without


def test_cells_are_sums_over_people_and_foregrounds():
    codes = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    sums = cell_sums(*codes, np.array([1.0, 2.0, 4.0, np.nan]))
    np.testing.assert_array_equal(sums, [[3, np.nan], [np.nan, 4]])


def p_value(cells, resamples=9999, seed=0):
    mean = np.nanmean(cells)
    added = (cells - mean) / np.isfinite(cells).sum()
    return swap_p_value(mean, added, np.random.default_rng(seed), resamples)


def every_swap(cells):
    """Share of all swaps of whole rows whose |t| is as large as that of the table."""

    def size(one):
        found = interval(one)
        return abs(found.value) / found.standard_error

    found = [
        size(np.array(signs)[:, None] * cells) for signs in product([1, -1], repeat=len(cells))
    ]
    return np.mean(np.array(found) >= size(cells) * (1 - 1e-9))


@pytest.mark.parametrize(("seed", "gaps"), [(2, False), (3, False), (1, True), (5, True)])
def test_p_is_the_larger_share_among_all_swaps_of_people_and_of_foregrounds(seed, gaps):
    """The larger is that of people, of both, and twice that of foregrounds."""
    cells = table(5, 6, seed, mean=0.35)
    if gaps:
        cells[[0, 1, 4], [2, 0, 5]] = np.nan
    p, missing = p_value(cells)
    assert missing == ""
    assert p == pytest.approx(max(every_swap(cells), every_swap(cells.T)))


def test_p_is_the_same_for_both_signs_and_no_smaller_than_people_allow():
    cells = table(5, 8, mean=10)
    assert p_value(cells)[0] == 2 / 2**5
    assert p_value(-cells)[0] == 2 / 2**5
    assert p_value(table(person=0, foreground=0, mean=0) * 0)[0] == 1
    assert p_value(table(people=1)) == (
        pytest.approx(np.nan, nan_ok=True),
        "ratings of one person only",
    )


def test_equal_methods_are_told_apart_in_five_of_a_hundred_studies():
    """Although people and foregrounds have their own liking for one of them."""
    cells = [table(10, 15, seed, 0, 0.2, 0.25, 0.3) for seed in range(300)]
    found = [p_value(own, resamples=199)[0] for own in cells]
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.09
