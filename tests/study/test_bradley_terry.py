"""Strengths from choices: against published fits, and against the estimate's own derivative."""

from dataclasses import replace

import numpy as np
import pytest
from simulated import PROTOCOL, TRUTH, simulated_frame

from anyscene.study.bradley_terry import fit, movements, strengths
from anyscene.study.ratings import counted
from anyscene.study.simulate import Raters

PAIRWISE = replace(PROTOCOL, kind="pairwise", ties=True)

# Agresti, Categorical Data Analysis, 2002, section 10.6: American League East of 1987, wins of the
# row against the column; estimates as in Turner and Firth, BradleyTerry2, R vignette.
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
BASEBALL = (
    (0, 7, 9, 7, 7, 9, 11),
    (6, 0, 7, 5, 11, 9, 9),
    (4, 6, 0, 7, 7, 8, 12),
    (6, 8, 6, 0, 6, 7, 10),
    (6, 2, 6, 7, 0, 7, 12),
    (4, 4, 5, 6, 6, 0, 6),
    (2, 4, 1, 3, 1, 7, 0),
)
BASEBALL_STRENGTHS = (1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0)

# Stigler, Statistical Science 9, 1994: citations of the row's journal in the column's. Biometrika,
# Communications in Statistics, JASA, JRSS B. Estimates as in the same vignette.
CITATIONS = ((0, 730, 498, 221), (33, 0, 68, 17), (320, 813, 0, 142), (284, 276, 325, 0))
CITATION_STRENGTHS = (0, -2.9491, -0.4796, 0.2690)


@pytest.mark.parametrize(
    ("wins", "published", "base"),
    [(BASEBALL, BASEBALL_STRENGTHS, 6), (CITATIONS, CITATION_STRENGTHS, 0)],
    ids=["baseball", "citations"],
)
def test_strengths_are_those_published(wins, published, base):
    found = fit(np.array(wins, float))
    assert found is not None
    assert found - found[base] == pytest.approx(published, abs=6e-5)
    assert found.mean() == pytest.approx(0, abs=1e-9)


def test_a_movement_is_the_derivative_of_the_strengths_by_the_choices_weight():
    wins = np.array(BASEBALL, float)
    strength = fit(wins)
    assert strength is not None
    step = 1e-4
    for first, second, won in [(0, 3, 1.0), (5, 6, 0.0), (2, 4, 0.5)]:
        more = wins.copy()
        more[first, second] += step * won
        more[second, first] += step * (1 - won)
        changed = fit(more)
        assert changed is not None
        who = [*np.argwhere(np.ones((7, 7))).T]
        pairs = np.repeat(np.stack(who, 1), wins.astype(int).ravel(), axis=0).T
        codes = np.append(pairs[0], first), np.append(pairs[1], second)
        moved = movements(*codes, np.append(np.ones(len(pairs[0])), won), strength)
        assert moved[-1] == pytest.approx((changed - strength) / step, abs=2e-3)
        assert moved[:-1].sum(0) == pytest.approx(np.zeros(7), abs=1e-6)


def test_strengths_of_a_study_have_intervals_and_the_order_of_the_truth():
    found = strengths(counted(simulated_frame(PAIRWISE))).set_index(["criterion", "method"])
    for criterion, means in TRUTH.items():
        own = found.loc[criterion]
        assert own["strength"].sum() == pytest.approx(0, abs=1e-6)
        assert own["strength"].idxmax() == max(means, key=means.__getitem__)
        assert (own["low"] < own["strength"]).all()
        assert (own["strength"] < own["high"]).all()
    assert (found["people"] == 8).all()
    assert (found["ratings"] == 24 * 3 * 4).all()  # cells x rivals x people an item


def test_a_tie_is_half_a_choice_of_each():
    frame = counted(simulated_frame(PAIRWISE, Raters(TRUTH, seed=2)))
    ties = frame.assign(value=0)
    assert strengths(ties)["strength"].abs().max() == pytest.approx(0, abs=1e-9)
    assert (frame["value"] == 0).mean() > 0.05


def test_a_method_that_always_wins_has_no_strength_and_says_so():
    frame = counted(simulated_frame(PAIRWISE))
    best = "anyscene"
    value = np.where(
        frame["method"] == best, -1, np.where(frame["method_b"] == best, 1, frame["value"])
    )
    found = strengths(frame.assign(value=value))
    assert found["strength"].isna().all()
    assert found["missing"].str.contains("always win").all()
