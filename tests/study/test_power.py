"""The difference that a study can find."""

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated import METHODS, PROTOCOL

from anyscene.study.model import cell_sums, swap_p_value
from anyscene.study.plan import Plan, describe
from anyscene.study.power import detectable_difference
from anyscene.study.simulate import Design, Spread, latent_means, simulate_values
from anyscene.study.sources import Cell


def test_four_of_five_studies_find_a_difference_of_that_size():
    """As their reports find it: by the p of swapped labels, times six pairs of four methods."""
    difference = detectable_difference(PROTOCOL, 4, seed=0)
    rng = np.random.default_rng(5)
    spread = Spread()
    means = [2.5 - difference / 2, 2.5 + difference / 2]
    latent = latent_means(means, spread, PROTOCOL.scale)
    found = []
    designs = [Design.of_protocol(PROTOCOL, 2, rng) for _ in range(4)]
    for design in 40 * designs:
        values = simulate_values(design, latent, spread, PROTOCOL, rng)
        side = 2 * design.method[0] - 1
        own = side * (values - np.where(side > 0, values[side > 0].mean(), values[side < 0].mean()))
        gap = values[side > 0].mean() - values[side < 0].mean()
        added = cell_sums(design.person[0], design.foreground[0], own / (len(values) / 2))
        found.append(swap_p_value(gap, added, rng, 1024)[0] * 6 <= 0.05)
    assert 0.75 < np.mean(found) < 0.95  # near the ends of the scale ratings vary less


def test_more_people_find_less_and_more_methods_need_more():
    some = detectable_difference(PROTOCOL, 4, seed=0)
    twice = replace(PROTOCOL, annotators=16, ratings_per_image=8)
    assert detectable_difference(twice, 4, seed=0) < 0.9 * some
    assert detectable_difference(PROTOCOL, 2, seed=0) < 0.9 * some
    assert detectable_difference(PROTOCOL, 4, seed=1) == pytest.approx(some, rel=0.15)


def test_pairs_are_told_in_shares_of_preferences():
    pairwise = replace(PROTOCOL, kind="pairwise", ties=True)
    assert 0.05 < detectable_difference(pairwise, 4, seed=0) < 0.5


def test_a_study_of_one_person_finds_nothing():
    alone = replace(PROTOCOL, annotators=1, ratings_per_image=1)
    assert math.isnan(detectable_difference(alone, 4, seed=0))
    assert "too small a study for intervals" in said_of(alone)


@pytest.mark.parametrize(
    ("changes", "least"),
    [({"annotators": 7}, "0.094"), ({"foregrounds": 5, "sets": 5}, "0.38")],
)
def test_a_study_whose_corrected_p_cannot_be_small_finds_nothing_and_says_how_many_it_needs(
    changes, least
):
    """Four methods: six pairs, and p cannot be below 2 / 2^n."""
    small = replace(PROTOCOL, **changes)
    assert f"no corrected p can be below {least}; have at least 8 people" in said_of(small)


def test_where_not_even_the_largest_difference_is_found_there_is_none():
    """Possible, but hardly ever: all of eight people and of eight foregrounds must agree."""
    rare = replace(PROTOCOL, kind="pairwise", foregrounds=8, prompts=1, sets=8, ratings_per_image=2)
    assert "no difference of two methods is found in 80 % of such studies" in said_of(rare)


def said_of(protocol):
    """What `create` says of power, of four methods."""
    cells = [Cell("scene", "prompt", number, images=()) for number in range(protocol.cells)]
    return describe(Plan(protocol, METHODS, cells, secret=bytes(8))).splitlines()[-1]
