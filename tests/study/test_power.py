"""The difference that a study can find."""

import math
from dataclasses import replace

import numpy as np
import pytest
from simulated import PROTOCOL

from anyscene.study.model import cell_sums, crossed_interval
from anyscene.study.power import detectable_difference
from anyscene.study.simulate import Design, Spread, latent_means, simulate_values


def test_four_of_five_studies_find_a_difference_of_that_size():
    difference = detectable_difference(PROTOCOL, 2, seed=0)
    rng = np.random.default_rng(5)
    spread = Spread()
    means = [2.5 - difference / 2, 2.5 + difference / 2]
    latent = latent_means(means, spread, PROTOCOL.scale)
    found = []
    for _ in range(300):
        design = Design.of_protocol(PROTOCOL, 2, rng)
        values = simulate_values(design, latent, spread, PROTOCOL, rng)
        side = 2 * design.method[0] - 1
        own = side * (values - np.where(side > 0, values[side > 0].mean(), values[side < 0].mean()))
        gap = values[side > 0].mean() - values[side < 0].mean()
        added = cell_sums(design.person[0], design.foreground[0], own / (len(values) / 2))
        found.append(crossed_interval(gap, added).low > 0)
    assert np.mean(found) == pytest.approx(0.8, abs=0.08)


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
