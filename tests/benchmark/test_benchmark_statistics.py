"""Statistics of a benchmark: against statsmodels and scipy, and the sign of an advantage."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from anyscene.benchmark.measure import Figures, boxes_at
from anyscene.benchmark.pictures import ranked_scenes
from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.score import set_figure
from anyscene.benchmark.statistics import (
    best_of,
    compare,
    estimate,
    groups,
    holm,
    scene_means,
    signed_rank,
    unit_means,
    units_of,
)
from anyscene.metrics.catalogue import Better


def test_holm_is_that_of_statsmodels():
    values = [0.04, 0.001, 0.3, 0.02, 0.9]
    expected = multipletests(values, method="holm")[1]
    assert holm(values) == pytest.approx(list(expected), abs=1e-12)
    assert holm([0.5, None, 0.01]) == [0.5, None, 0.02]
    rising = [0.02, 0.022, 0.9]  # 2 x 0.022 is less than 3 x 0.02: an order must stay one
    assert holm(rising) == pytest.approx(list(multipletests(rising, method="holm")[1]), abs=1e-12)


def test_scenes_without_a_difference_count_in_the_signed_rank_test():
    """Pratt 1959: zeros take ranks, so that ties do not make a difference look surer."""
    differences = np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7])
    expected = stats.wilcoxon(differences, zero_method="pratt").pvalue
    assert signed_rank(differences) == pytest.approx(expected)
    assert expected != pytest.approx(stats.wilcoxon(differences, zero_method="wilcox").pvalue)


def test_mean_over_seeds_comes_before_the_mean_over_scenes():
    values = np.array([[1.0, 3.0], [np.nan, 5.0], [np.nan, np.nan]])
    means = scene_means(values)
    assert means[:2].tolist() == [2.0, 5.0]
    assert math.isnan(means[2])
    own = estimate(means)
    assert own["value"] == 3.5
    assert own["scenes"] == 2
    assert estimate(np.array([np.nan])) == {"value": None, "interval": None, "scenes": 0}


@pytest.mark.parametrize("better", list(Better))
def test_advantage_is_positive_for_the_better_method(better: Better):
    random = np.random.default_rng(0)
    good = random.normal(1, 0.1, 40)
    bad = good - 0.5 + random.normal(0, 0.1, 40)
    if better is Better.lower:
        good, bad = -good, -bad
    columns = {"good": good, "bad": bad, "same": good.copy()}
    assert best_of(columns, better) == "good"
    against_bad, against_same = compare(columns, "good", better)
    assert against_bad["advantage"] == pytest.approx(0.5, abs=0.06)
    interval = against_bad["interval"]
    assert interval is not None
    assert 0 < interval[0] < against_bad["advantage"] < interval[1]
    expected = stats.wilcoxon(good - bad, zero_method="pratt").pvalue
    assert against_bad["p"] == pytest.approx(2 * expected)  # Holm: two tests
    assert against_same["advantage"] == 0
    assert against_same["p"] == 1


def test_pairs_without_a_value_are_left_out():
    columns = {"a": np.array([1.0, np.nan, 3.0]), "b": np.array([0.0, 0.0, np.nan])}
    (pair,) = compare(columns, "a", Better.higher)
    assert pair["scenes"] == 1
    assert pair["interval"] is None
    assert pair["p"] is None
    assert signed_rank(np.array([0.0, 0.0])) == 1


def test_scenes_of_one_unit_are_drawn_together_and_tested_as_one():
    """Copies of a scene say nothing new: neither interval nor p may become smaller by them."""
    random = np.random.default_rng(0)
    subjects = random.normal(0.7, 1, 20)
    copies = {"a": np.repeat(subjects, 25), "b": np.zeros(500)}
    units = np.repeat(np.arange(20), 25)
    alone = {"a": subjects, "b": np.zeros(20)}
    (one,), (many,) = compare(alone, "a", Better.higher), compare(copies, "a", Better.higher, units)
    assert many["interval"] == pytest.approx(one["interval"], abs=1e-9)
    assert many["p"] == pytest.approx(one["p"])
    assert many["advantage"] == pytest.approx(one["advantage"])
    assert many["scenes"] == 500
    assert estimate(copies["a"], units)["interval"] == pytest.approx(estimate(subjects)["interval"])
    (apart,) = compare(copies, "a", Better.higher)
    assert apart["p"] is not None
    assert many["p"] is not None
    assert apart["p"] < many["p"] / 100
    assert estimate(np.array([1.0, 2.0]), np.array([7, 7]))["interval"] is None


def test_means_of_units_leave_out_what_has_no_value():
    column = np.array([1.0, np.nan, 3.0, np.nan])
    assert unit_means(column, np.array([4, 4, 4, 9])).tolist() == [2.0]
    assert unit_means(column, None).tolist() == [1.0, 3.0]


def test_units_are_subjects_or_the_images_that_scenes_are_built_on(
    demo_benchmark: Benchmark, subject_set: Benchmark
):
    again = replace(demo_benchmark, scenes=[*demo_benchmark.scenes, demo_benchmark.scenes[1]])
    assert units_of(again).tolist() == [0, 1, 2, 3, 1]
    layouts = [scene["layout"] for scene in subject_set.scenes]
    first = [scene.get("subjects", [])[0]["name"] for scene in subject_set.scenes]
    assert "pair" in layouts
    assert units_of(subject_set).tolist() == [list(dict.fromkeys(first)).index(n) for n in first]


def test_box_of_an_element_covers_its_pixels_at_any_size():
    scene: Any = {"height": 64, "width": 64, "elements": [{"box_xywh": [5, 7, 20, 50]}]}
    ((left, top, right, bottom),) = boxes_at(scene, 96, 40)
    assert (left, top, right, bottom) == (3, 10, 16, 86)  # outward from 3.1, 10.5, 15.6 and 85.5
    scene["elements"][0]["box_xywh"] = [0, 0, 64, 64]
    assert boxes_at(scene, 97, 41) == [(0, 0, 41, 97)]


def test_interval_of_a_set_s_figure_is_of_the_mean_over_seeds():
    """Seeds draw the same scenes: their replicates are averaged, as their values are."""
    drawn = np.random.default_rng(0).normal(5, 1, (3, 400))
    figures = Figures(replicates={"kid": drawn})
    figure = set_figure("kid", [4.0, 5.0, 6.0], figures)
    assert (figure["value"], figure["spread"]) == (5.0, 1.0)
    assert figure["interval"] == pytest.approx(np.quantile(drawn.mean(axis=0), [0.025, 0.975]))
    assert set_figure("fid", [4.0], figures) == {
        "value": 4.0,
        "interval": None,
        "seeds": [4.0],
        "spread": None,
    }


def test_groups_have_enough_scenes(demo_benchmark: Benchmark):
    every = groups(demo_benchmark, 1)
    assert every["layout: original"] == [0, 1, 2, 3]
    assert {name for name in every if ":" not in name} == set(demo_benchmark.record["categories"])
    assert set(groups(demo_benchmark, 4)) >= {"layout: original"}
    assert all(len(own) >= 2 for own in groups(demo_benchmark, 2).values())


def test_ranked_scenes_are_each_shown_once():
    values = [0.1, np.nan, 0.9, 0.5, 0.7, 0.3, 0.2, 0.8]
    rows = ranked_scenes(values, Better.higher)
    assert rows == {"best": [2, 7], "median": [4, 3], "worst": [6, 0]}
    shown = [n for own in rows.values() for n in own]
    assert len(shown) == len(set(shown))
    assert 1 not in shown
    assert ranked_scenes(values, Better.lower)["best"] == [0, 6]


def test_boxes_follow_the_size_of_the_image(demo_benchmark: Benchmark):
    scene = demo_benchmark.scenes[0]
    for element, box in zip(scene["elements"], boxes_at(scene, 128, 128), strict=True):
        left, top, width, height = element["box_xywh"]
        assert box == (2 * left, 2 * top, 2 * (left + width), 2 * (top + height))
