"""Simulated raters have the means and habits that they are given."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from simulated import METHODS, PROTOCOL, TRUTH, simulated_frame

from anyscene.study.protocol import Scale
from anyscene.study.ratings import counted
from anyscene.study.simulate import Design, Raters, Spread, latent_means, opinions

EVERY_SCENE_ONCE = replace(
    PROTOCOL, foregrounds=400, prompts=1, annotators=40, sets=40, ratings_per_image=10
)


def test_mean_ratings_are_the_wanted_ones():
    frame = counted(simulated_frame(EVERY_SCENE_ONCE, Raters(TRUTH, seed=4)))
    found = frame.groupby(["criterion", "method"], observed=True)["value"].mean()
    errors = [found[criterion, m] - TRUTH[criterion][m] for criterion in TRUTH for m in METHODS]
    assert np.abs(errors).max() < 0.2  # 40 people, whose leniency has a deviation of 0.36
    assert abs(np.mean(errors)) < 0.05
    assert set(frame["value"]) == {1, 2, 3, 4}


@pytest.mark.parametrize("scale", [Scale(), Scale(0, 9, tuple("0123456789"))])
def test_latent_means_give_the_mean_of_rounded_numbers(scale):
    spread, wanted = Spread(), [scale.low + 0.4, 2.5, scale.high - 0.4]
    noise = np.random.default_rng(0).normal(0, spread.total, 400_000)
    for latent, mean in zip(latent_means(wanted, spread, scale), wanted, strict=True):
        rounded = np.rint(latent + noise).clip(scale.low, scale.high)
        assert rounded.mean() == pytest.approx(mean, abs=0.01)


def test_each_part_of_an_opinion_has_its_deviation_and_is_shared_as_it_says():
    design = Design.of_protocol(EVERY_SCENE_ONCE, 2, np.random.default_rng(0))
    shares = {
        "person": (design.person,),
        "foreground_method": (design.foreground, design.method),
        "image": (design.image,),
        "taste": (design.person, design.image),
    }
    for name, codes in shares.items():
        only = Spread(**{**dict.fromkeys(vars(Spread()), 0.0), name: 2.0})
        found = opinions(design, np.zeros(2), only, np.random.default_rng(1))
        groups = {}
        for key, value in zip(
            zip(*(code[0] for code in codes), strict=True), found[0], strict=True
        ):
            groups.setdefault(key, set()).add(value)
        assert all(len(values) == 1 for values in groups.values())
        values = [value for (value,) in groups.values()]
        assert np.std(values) == pytest.approx(2, rel=0.25)


def test_repeats_that_fit_a_study_are_not_too_many_for_two_of_its_methods():
    """A person has 48 items of four methods, of which 24 may be repeated, and 24 of two."""
    with_repeats, without = (replace(PROTOCOL, repeats=count) for count in (20, 0))
    for kind in ("rating", "pairwise"):
        design, plain = (
            Design.of_protocol(replace(one, kind=kind), 2, np.random.default_rng(0))
            for one in (with_repeats, without)
        )
        assert all(
            np.array_equal(*own) for own in zip(astuple(design), astuple(plain), strict=True)
        )


def test_total_spread_is_that_of_independent_parts():
    parts = vars(Spread()).values()
    assert Spread().total == pytest.approx(sum(part**2 for part in parts) ** 0.5)


def test_a_second_time_only_noise_differs():
    still = Spread(noise=0.0)
    frame = simulated_frame(raters=Raters(TRUTH, seed=5, spread=still))
    again = frame[frame["repeat_of"].notna()]
    first = frame.set_index(["annotator", "item", "criterion"])["value"]
    keys = zip(again["annotator"], again["repeat_of"], again["criterion"], strict=True)
    assert [first[key] for key in keys] == again["value"].tolist()


def test_careful_people_pass_checks_and_careless_ones_hurry():
    frame = simulated_frame(raters=Raters(TRUTH, seed=6, careless=("a01",)))
    checks = frame[frame["check"]]
    wrong = checks["value"] != checks["expected"]
    assert set(checks.loc[wrong, "annotator"]) == {"a01"}
    seconds = frame.groupby("annotator", observed=True)["seconds"].median()
    assert seconds["a01"] < 2 < seconds.drop("a01").min()


def test_pairs_follow_the_methods_and_not_the_sides():
    protocol = replace(PROTOCOL, kind="pairwise", ratings_per_image=8)
    frame = counted(simulated_frame(protocol))
    clear = frame[(frame["criterion"] == "fidelity") & (frame["method"] == "custom")]
    clear = clear[clear["method_b"] == "anyscene"]
    assert clear.groupby("swapped")["value"].mean().min() > 0.8  # the second is better
    assert set(frame["value"]) == {-1, 1}


def test_the_same_seed_gives_the_same_answers():
    columns = ["annotator", "item", "criterion", "value", "seconds"]
    first, again = (simulated_frame(raters=Raters(TRUTH, seed=7))[columns] for _ in range(2))
    assert first.equals(again)
    other = simulated_frame(raters=Raters(TRUTH, seed=8))
    assert not first["value"].equals(other["value"])
