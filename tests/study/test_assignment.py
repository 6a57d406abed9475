"""The design: what is balanced, for every protocol that hypothesis thinks of."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import PROTOCOL

from anyscene.errors import ConfigError
from anyscene.study.assignment import Showing, assign, share_sets
from anyscene.study.protocol import Protocol


@st.composite
def designs(draw: st.DrawFn) -> tuple[Protocol, int, int]:
    """A protocol, the number of treatments and a seed."""
    foregrounds, prompts = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    cells = 2 * foregrounds * prompts
    sets = draw(st.integers(1, min(cells, 12)))
    ratings = draw(st.integers(1, 5))
    protocol = replace(
        PROTOCOL,
        kind=draw(st.sampled_from(["rating", "pairwise"])),
        foregrounds=foregrounds,
        prompts=prompts,
        images_per_prompt=2,
        sets=sets,
        ratings_per_image=ratings,
        annotators=draw(st.integers(ratings, max(ratings, min(12, sets * ratings)))),
        attention_checks=draw(st.integers(0, 4)),
        repeats=0,
    )
    treatments = draw(st.integers(1, 6))
    fewest = cells // sets * (sets * ratings // protocol.annotators) * treatments
    repeats = draw(st.integers(0, max(1, fewest // 2)))
    return replace(protocol, repeats=repeats), treatments, draw(st.integers(0, 2**32))


def first_time(order: list[Showing]) -> list[Showing]:
    """A person's items without repeats and checks."""
    return [showing for showing in order if not showing.repeat and showing.check is None]


def spread(counts: Counter, keys: range) -> int:
    """Difference of the largest and the smallest count."""
    found = [counts[key] for key in keys]
    return max(found) - min(found)


@settings(max_examples=120, deadline=None)
@given(designs())
def test_every_image_is_rated_by_the_wanted_number_of_different_people(design):
    protocol, treatments, seed = design
    orders = assign(protocol, treatments, np.random.default_rng(seed))
    people: dict[tuple[int, int], list[int]] = {}
    for person, order in enumerate(orders):
        for showing in first_time(order):
            people.setdefault((showing.cell, showing.treatment), []).append(person)
    assert len(orders) == protocol.annotators
    assert len(people) == protocol.cells * treatments
    for raters in people.values():
        assert len(raters) == len(set(raters)) == protocol.ratings_per_image


@settings(max_examples=120, deadline=None)
@given(designs())
def test_methods_are_balanced_within_sets_people_and_positions(design):
    protocol, treatments, seed = design
    orders = assign(protocol, treatments, np.random.default_rng(seed))
    for order in map(first_time, orders):
        for part in {showing.part for showing in order}:
            own = Counter(showing.treatment for showing in order if showing.part == part)
            assert spread(own, range(treatments)) == 0
        blocks = [order[n : n + treatments] for n in range(0, len(order), treatments)]
        assert all(len({showing.treatment for showing in block}) == treatments for block in blocks)
        places = [
            Counter(block[place].treatment for block in blocks) for place in range(treatments)
        ]
        assert all(spread(counts, range(treatments)) <= 1 for counts in places)
    for seen in zip(*map(first_time, orders), strict=False):  # by everyone at one position
        assert spread(Counter(showing.treatment for showing in seen), range(treatments)) <= 1


@settings(max_examples=60, deadline=None)
@given(designs())
def test_the_two_sides_of_a_pair_are_balanced(design):
    protocol, treatments, seed = design
    orders = assign(replace(protocol, kind="pairwise"), treatments, np.random.default_rng(seed))
    for order in map(first_time, orders):
        sides = Counter((showing.treatment, showing.swapped) for showing in order)
        for treatment in range(treatments):
            assert abs(sides[treatment, True] - sides[treatment, False]) <= 1
    rated = assign(replace(protocol, kind="rating"), treatments, np.random.default_rng(seed))
    assert not any(showing.swapped for order in rated for showing in order)


@pytest.mark.parametrize("people", [4, 5])
def test_over_people_whose_pairs_are_of_odd_number_sides_are_balanced_too(people):
    """The odd one is not on the same side for everybody."""
    protocol = replace(
        PROTOCOL, kind="pairwise", foregrounds=5, prompts=1, sets=1, annotators=people,
        ratings_per_image=people, repeats=0,
    )  # fmt: skip
    for seed in range(5):
        orders = assign(protocol, 3, np.random.default_rng(seed))
        shown = [showing for order in orders for showing in first_time(order)]
        for treatment in range(3):
            swapped = [showing.swapped for showing in shown if showing.treatment == treatment]
            assert len(swapped) == 5 * people
            assert abs(2 * sum(swapped) - len(swapped)) <= 1


@settings(max_examples=120, deadline=None)
@given(designs())
def test_repeats_and_checks_come_as_often_as_wanted_and_late_enough(design):
    protocol, treatments, seed = design
    for order in assign(protocol, treatments, np.random.default_rng(seed)):
        repeats = [showing for showing in order if showing.repeat]
        assert len({(showing.cell, showing.treatment) for showing in repeats}) == protocol.repeats
        checks = [showing.check for showing in order if showing.check is not None]
        assert checks == list(range(protocol.attention_checks))
        assert [showing.part for showing in order] == sorted(showing.part for showing in order)
        items = [showing for showing in order if showing.check is None]
        for place, showing in enumerate(items):
            if showing.repeat:
                first = next(
                    n
                    for n, other in enumerate(items)
                    if (other.cell, other.treatment) == (showing.cell, showing.treatment)
                )
                assert place - first >= (len(items) - protocol.repeats) / 8
                if protocol.kind == "pairwise":
                    assert showing.swapped != items[first].swapped


def test_repeats_are_of_each_method_equally_often_for_a_person_and_over_people():
    protocol = replace(PROTOCOL, foregrounds=12, sets=4, annotators=4, repeats=6)
    orders = assign(protocol, 4, np.random.default_rng(0))
    again = [[one.treatment for one in order if one.repeat] for order in orders]
    for own in again:
        assert spread(Counter(own), range(4)) == 1  # 2, 2, 1, 1
    assert spread(Counter(treatment for own in again for treatment in own), range(4)) == 0


def test_images_of_one_foreground_and_prompt_stand_far_apart():
    """As far as the set allows: with 20 cells and 4 methods, about 5 blocks of 4."""
    protocol = replace(PROTOCOL, foregrounds=10, prompts=2, sets=1, annotators=2, repeats=0)
    for order in assign(protocol, 4, np.random.default_rng(0)):
        for cell in range(protocol.cells):
            places = [n for n, one in enumerate(first_time(order)) if one.cell == cell]
            assert min(late - early for early, late in pairwise(places)) > 4 * 4


def test_the_order_is_random_for_each_person_and_a_function_of_the_seed():
    protocol = replace(PROTOCOL, foregrounds=10, sets=4, annotators=4, ratings_per_image=4)
    orders = assign(protocol, 3, np.random.default_rng(7))
    assert orders == assign(protocol, 3, np.random.default_rng(7))
    assert orders != assign(protocol, 3, np.random.default_rng(8))
    cells = [tuple(showing.cell for showing in order) for order in orders]
    assert len(set(cells)) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_people_share_the_work_and_many_colleagues(sets, people, data):
    ratings = data.draw(st.integers(1, people))
    own = share_sets(sets, people, ratings, np.random.default_rng(0))
    assert Counter(number for numbers in own for number in numbers) == dict.fromkeys(
        range(sets), ratings
    )
    loads = [len(numbers) for numbers in own]
    assert max(loads) - min(loads) <= 1
    assert all(len(set(numbers)) == len(numbers) for numbers in own)


def test_ten_people_with_two_a_set_all_meet_others():
    """Fixed pairs of raters could not be told from their sets."""
    own = share_sets(30, 10, 2, np.random.default_rng(0))
    for person in range(10):
        met = [len(set(own[person]) & set(own[other])) for other in range(10) if other != person]
        assert max(met) == 1


def test_too_many_repeats_are_told():
    protocol = replace(PROTOCOL, repeats=30)
    with pytest.raises(ConfigError, match="repeats=30 is more than half of a person's 8 items"):
        assign(protocol, 2, np.random.default_rng(0))
