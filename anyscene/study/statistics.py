"""Means of methods, preferences between them and their differences, with intervals and tests."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from anyscene.study.model import (
    Floats,
    Interval,
    cell_sums,
    crossed_interval,
    swap_p_value,
    within,
)
from anyscene.study.protocol import Scale

LEVEL = 0.95
"""Of all intervals."""


@dataclass(frozen=True)
class Figure:
    """A number, and what each person with each foreground adds to its deviation (NaN: nothing)."""

    value: float
    contributions: Floats  # people x foregrounds; the sum is zero

    @property
    def interval(self) -> Interval:
        """At `LEVEL`."""
        return crossed_interval(self.value, self.contributions, LEVEL)

    def minus(self, other: "Figure") -> "Figure":
        """The difference of two figures of the same people and foregrounds."""
        both = np.array([self.contributions, -other.contributions])
        added = np.where(np.isnan(both).all(0), np.nan, np.nansum(both, 0))
        return Figure(self.value - other.value, added)


def method_means(ratings: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """The mean of each criterion and method: plain, over all ratings that count.

    ratings: of a rating study, `ratings.counted`.
    """
    rows = []
    for criterion, own in by_criterion(ratings):
        for method, figure in figures(own, "method").items():
            row = {"criterion": criterion, "method": method}
            row |= interval_columns("mean", within(figure.interval, scale.low, scale.high))
            rows.append(row | counts(own.loc[own["method"] == method]))
    return pd.DataFrame(rows)


def differences(ratings: pd.DataFrame, seed: int) -> pd.DataFrame:
    """How much higher each criterion's mean is for the first than for the second of two methods.

    seed: of the permutations, where there are too many to try all.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for criterion, own in by_criterion(ratings):
        means = figures(own, "method")
        for first, second in combinations(means, 2):
            figure = means[first].minus(means[second])
            row = {"criterion": criterion, "first": first, "second": second}
            row |= interval_columns("difference", figure.interval) | _test(figure, rng)
            rows.append(row | counts(own.loc[own["method"].isin([first, second])]))
    return corrected(pd.DataFrame(rows))


def preferences(choices: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The share in which the first of two methods is preferred; a tie is half. Tested against 0.5.

    choices: of a pairwise study, `ratings.counted`.
    """
    rng = np.random.default_rng(seed)
    names = list(zip(choices["method"], choices["method_b"], strict=True))
    choices = choices.assign(pair=pd.Series(names, choices.index), value=(1 - choices["value"]) / 2)
    rows = []
    for criterion, own in by_criterion(choices):
        for pair, figure in figures(own, "pair").items():
            row = {"criterion": criterion, "first": pair[0], "second": pair[1]}
            row |= interval_columns("share", within(figure.interval, 0, 1))
            row |= _test(replace(figure, value=figure.value - 0.5), rng)
            rows.append(row | counts(own.loc[own["pair"] == pair]))
    return corrected(pd.DataFrame(rows))


def by_criterion(answers: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The criteria in the order of their first answers, each with its answers."""
    for criterion in answers["criterion"].unique():
        yield str(criterion), answers.loc[answers["criterion"] == criterion]


def figures(answers: pd.DataFrame, group: str) -> dict[Any, Figure]:
    """The mean `value` of each group of answers to one criterion, in the order of categories."""
    values = answers["value"].to_numpy(float)
    people, _ = pd.factorize(answers["annotator"])
    foregrounds, _ = pd.factorize(answers["scene_id"])
    groups = answers[group].astype("category").cat.remove_unused_categories().cat
    found = {}
    for code, name in enumerate(groups.categories):
        own = (groups.codes == code).to_numpy()
        mean = values[own].mean()
        deviations = np.where(own, (values - mean) / own.sum(), np.nan)
        found[name] = Figure(float(mean), cell_sums(people, foregrounds, deviations))
    return found


def interval_columns(name: str, interval: Interval) -> dict[str, Any]:
    """An interval's fields, its value as `name`."""
    columns = asdict(interval)
    return {name: columns.pop("value"), **columns}


def counts(answers: pd.DataFrame) -> dict[str, int]:
    """What a figure of these answers to one criterion rests on."""
    images = {*answers["image"].unique(), *answers["image_b"].unique()} - {""}
    return {
        "people": len(answers["annotator"].unique()),
        "foregrounds": len(answers["scene_id"].unique()),
        "images": len(images),
        "ratings": len(answers),
    }


def corrected(comparisons: pd.DataFrame) -> pd.DataFrame:
    """With `p_holm`: Holm's correction within each criterion, which is a question of its own."""
    if comparisons.empty:  # so far one method is rated
        return comparisons
    comparisons["p_holm"] = np.nan
    for _, family in comparisons[comparisons["p"].notna()].groupby("criterion"):
        comparisons.loc[family.index, "p_holm"] = multipletests(family["p"], method="holm")[1]
    return comparisons


def _test(figure: Figure, rng: np.random.Generator) -> dict[str, Any]:
    p, missing = swap_p_value(figure.value, figure.contributions, rng)
    return {"p": p, "p_missing": missing}
