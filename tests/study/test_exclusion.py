"""Who is left out: by attention checks and by pace, as the protocol fixed it."""

import pandas as pd
import pytest
from simulated import PROTOCOL, TRUTH, simulated_frame

from anyscene.study.exclusion import judge_people, without_excluded
from anyscene.study.protocol import Exclusion
from anyscene.study.simulate import Raters


def answers(seconds, checks):
    """One person's items with their seconds, and checks with two values each, both to be 4."""
    rows = [
        {"item": f"i{n}", "seconds": time, "check": False, "value": 1, "expected": None}
        for n, time in enumerate(seconds)
    ]
    rows += [
        {"item": f"c{n}", "seconds": 0.1, "check": True, "value": value, "expected": 4}
        for n, values in enumerate(checks)
        for value in values
    ]
    return pd.DataFrame(rows).assign(annotator="a01")


def verdict(seconds, checks, **rules):
    (person,) = judge_people(answers(seconds, checks), Exclusion(**rules)).to_dict("records")
    return person


def test_one_wrong_value_fails_a_check_once():
    person = verdict([5], [(4, 4), (4, 1), (2, 1)], max_failed_checks=1, min_median_seconds=1)
    assert (person["checks"], person["failed_checks"]) == (3, 2)
    assert person["excluded"] == "failed 2 of 3 attention checks, more than 1"
    assert verdict([5], [(4, 4), (4, 1)], max_failed_checks=1)["excluded"] == ""


def test_pace_is_the_median_of_items_without_checks():
    rules = {"min_median_seconds": 3.0}
    assert verdict([1, 3, 9], [(4, 4)], **rules)["excluded"] == ""
    hasty = verdict([1, 2.9, 9], [(4, 4)], **rules)
    assert hasty["median_seconds"] == pytest.approx(2.9)
    assert hasty["excluded"] == "a median of 2.9 s an item, less than 3 s"


def test_both_reasons_are_told():
    assert "; a median of" in verdict([1], [(1, 1)], max_failed_checks=0)["excluded"]


def test_careless_people_alone_are_left_out():
    frame = simulated_frame(raters=Raters(TRUTH, seed=3, careless=("a02", "a07")))
    people = judge_people(frame, PROTOCOL.exclusion).set_index("annotator")
    assert people.index[people["excluded"] != ""].tolist() == ["a02", "a07"]
    assert (people["items"] == 48 + PROTOCOL.repeats).all()
    assert (people["checks"] == PROTOCOL.attention_checks).all()
    kept = without_excluded(frame, people.reset_index())
    assert set(kept["annotator"]) == {"a01", "a03", "a04", "a05", "a06", "a08"}
