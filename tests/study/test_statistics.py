"""Means, differences and preferences: what they are of, and what does not touch them."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formula
from scipy import stats
from simulated import METHODS, PROTOCOL, TRUTH, simulated_frame

from anyscene.study.ratings import counted, ratings_frame
from anyscene.study.statistics import differences, method_means, preferences

EVERYBODY = replace(PROTOCOL, ratings_per_image=PROTOCOL.annotators)
PAIRWISE = replace(PROTOCOL, kind="pairwise", ties=True)


@pytest.fixture(scope="module")
def frame():
    return simulated_frame()


@pytest.fixture(scope="module")
def means(frame):
    return method_means(counted(frame), PROTOCOL.scale).set_index(["criterion", "method"])


@pytest.fixture(scope="module")
def found(frame):
    return differences(counted(frame), seed=0)


def test_means_are_plain_means_in_the_order_of_methods(frame, means):
    own = frame[~frame["check"] & frame["repeat_of"].isna()]
    plain = own.groupby(["criterion", "method"], observed=True)["value"].mean()
    assert means.index.tolist() == [
        (criterion, method) for criterion in TRUTH for method in METHODS
    ]
    assert means["mean"].to_dict() == pytest.approx(plain.to_dict())
    assert ((means["low"] > 1) & (means["low"] < means["mean"])).all()
    assert ((means["mean"] < means["high"]) & (means["high"] < 4)).all()
    edge = means.loc["fidelity", "anyscene"]
    assert edge["high"] - edge["mean"] < 0.9 * (edge["mean"] - edge["low"])


def test_counts_tell_what_a_mean_rests_on(means):
    counts = means[["people", "foregrounds", "images", "ratings"]].drop_duplicates()
    assert counts.to_numpy().tolist() == [[8, 12, 24, 24 * 4]]


def test_error_of_a_study_in_which_everybody_rates_all_is_that_of_statsmodels():
    own = counted(simulated_frame(EVERYBODY))
    found = method_means(own, PROTOCOL.scale).set_index(["criterion", "method"])
    for key in [("quality", "dreambooth"), ("fidelity", "anyscene")]:
        cells = own[(own["criterion"] == key[0]) & (own["method"] == key[1])]
        cells = (
            cells.groupby(["annotator", "scene_id"], observed=True)["value"].mean().reset_index()
        )
        effects = {"person": "0 + C(annotator)", "foreground": "0 + C(scene_id)"}
        model = formula.mixedlm("value ~ 1", cells.assign(all=1), groups="all", vc_formula=effects)
        wanted = model.fit(reml=True).bse.iloc[0]
        assert found.loc[key, "standard_error"] == pytest.approx(wanted, rel=2e-3)


def test_checks_and_second_ratings_do_not_count(frame, means):
    extra = frame["check"] | frame["repeat_of"].notna()
    assert extra.sum() == 8 * (PROTOCOL.attention_checks + PROTOCOL.repeats) * len(TRUTH)
    changed = frame.assign(value=np.where(extra, 1, frame["value"]))
    again = method_means(counted(changed), PROTOCOL.scale).set_index(["criterion", "method"])
    pd.testing.assert_frame_equal(again, means)


def test_differences_are_of_the_means_and_tighter_than_unpaired_ones(found, means):
    assert len(found) == len(TRUTH) * 6
    pairs = list(zip(found["first"], found["second"], strict=True))
    assert pairs == list(combinations(METHODS, 2)) * len(TRUTH)
    error = means["standard_error"]
    unpaired = []
    for row in found.to_dict("records"):
        first, second = (row["criterion"], row["first"]), (row["criterion"], row["second"])
        wanted = means.loc[first, "mean"] - means.loc[second, "mean"]
        assert row["difference"] == pytest.approx(wanted)
        assert row["high"] - row["difference"] == pytest.approx(row["difference"] - row["low"])
        unpaired.append(np.hypot(error[first], error[second]))
    assert found["standard_error"].mean() < 0.95 * np.mean(unpaired)


def test_intervals_are_of_95_percent(found):
    reach = stats.t.ppf(0.975, found["degrees_of_freedom"]) * found["standard_error"]
    assert (found["high"] - found["difference"]).tolist() == pytest.approx(reach.tolist())


def test_holms_correction_is_within_each_criterion(found):
    for _, family in found.groupby("criterion"):
        ordered = family.sort_values("p")
        stepped = ordered["p"] * np.arange(len(family), 0, -1)
        assert ordered["p_holm"].tolist() == pytest.approx(stepped.cummax().clip(upper=1).tolist())
    assert (found["p_holm"] > found["p"]).any()


def test_preferences_are_shares_of_the_first_method_and_a_tie_is_half():
    own = counted(simulated_frame(PAIRWISE))
    found = preferences(own, seed=0).set_index(["criterion", "first", "second"])
    assert len(found) == len(TRUTH) * 6
    pair = own[(own["criterion"] == "fidelity") & (own["method"] == "inpaint")]
    values = pair.loc[pair["method_b"] == "anyscene", "value"]
    row = found.loc["fidelity", "inpaint", "anyscene"]
    assert (values == 0).any()
    assert row["share"] == pytest.approx(
        ((values == -1).sum() + (values == 0).sum() / 2) / len(values)
    )
    assert 0 <= row["low"] < row["share"] < row["high"] <= 1
    assert row["images"] == 2 * 24
    clear = found.loc["fidelity", "custom", "anyscene"]
    assert clear["share"] < 0.1
    assert clear["p"] < 0.05 < found.loc["quality", "dreambooth", "custom"]["p"]


def test_without_any_difference_half_prefer_each():
    own = counted(simulated_frame(PAIRWISE))
    found = preferences(own.assign(value=np.where(np.arange(len(own)) % 2, 1, -1)), seed=0)
    assert found["share"].to_numpy() == pytest.approx(0.5, abs=0.12)
    assert (found["p"] > 0.05).mean() > 0.7


def test_one_persons_ratings_have_means_without_intervals_and_tests(frame):
    own = counted(frame[frame["annotator"] == "a01"])
    found = method_means(own, PROTOCOL.scale)
    assert found["mean"].notna().all()
    assert found["low"].isna().all()
    assert set(found["missing"]) == {"ratings of one person only"}
    compared = differences(own, seed=0)
    assert compared["p"].isna().all()
    assert set(compared["p_missing"]) == {"ratings of one person only"}


def test_a_frame_has_a_row_for_each_answer_and_a_column_for_each_field(frame):
    assert len(frame) == (24 * 4 * 4 + 8 * 7) * len(TRUTH)
    assert frame["expected"].isna().sum() == len(frame) - 8 * 3 * len(TRUTH)
    assert ratings_frame([]).columns.tolist() == frame.columns.tolist()
