"""Strengths of methods from choices between two: Bradley and Terry, Biometrika 39, 1952.

P(first is preferred) = 1 / (1 + exp(strength_second - strength_first)).
"""

import choix
import numpy as np
import pandas as pd
from scipy import special
from scipy.sparse.csgraph import connected_components

from anyscene.study.model import Codes, Floats, Interval, cell_sums
from anyscene.study.statistics import Figure, by_criterion, counts, interval_columns

MOST_ITERATIONS = 10_000


def strengths(choices: pd.DataFrame) -> pd.DataFrame:
    """Log-strength of each criterion and method, zero on average over methods.

    A tie counts as half a choice of each. The maximum of the likelihood is choix's. Intervals are
    those of the linearised estimate: a choice moves it by its score times the inverse information,
    and these movements have crossed random effects of people and foregrounds, as the ratings
    behind a mean have (`model.crossed_interval`).

    choices: of a pairwise study, `ratings.counted`.
    """
    rows = []
    for criterion, own in by_criterion(choices):
        for method, interval in _intervals(own).items():
            seen = own.loc[(own["method"] == method) | (own["method_b"] == method)]
            columns = interval_columns("strength", interval)
            rows.append({"criterion": criterion, "method": method, **columns, **counts(seen)})
    return pd.DataFrame(rows)


def fit(wins: Floats) -> Floats | None:
    """Log-strengths of the maximum of the likelihood, zero on average; None where there is none.

    wins: methods x methods, how often the row's was preferred to the column's. There is a maximum
    if each method is connected with each other one by a chain of preferences (Ford 1957).
    """
    if connected_components(wins > 0, connection="strong")[0] > 1:
        return None
    return choix.ilsr_pairwise_dense(wins, max_iter=MOST_ITERATIONS)


def movements(first: Codes, second: Codes, won: Floats, strength: Floats) -> Floats:
    """How far each of N choices moves each of M log-strengths: N M.

    first, second: numbers of the methods. won: 1, 0.5 or 0, the share of the first.
    """
    expected = special.expit(strength[first] - strength[second])
    contrast = np.eye(len(strength))[first] - np.eye(len(strength))[second]
    information = (contrast * (expected * (1 - expected))[:, None]).T @ contrast
    scores = (won - expected)[:, None] * contrast
    return scores @ np.linalg.pinv(information, hermitian=True)


def _intervals(choices: pd.DataFrame) -> dict[str, Interval]:
    """Of each method, for one criterion."""
    sides = np.array([choices["method"].cat.codes, choices["method_b"].cat.codes])
    used, (first, second) = np.unique(sides, return_inverse=True)
    methods = choices["method"].cat.categories[used]
    won = (1 - choices["value"].to_numpy(float)) / 2
    wins = np.zeros((len(methods), len(methods)))
    np.add.at(wins, (first, second), won)
    np.add.at(wins, (second, first), 1 - won)
    strength = fit(wins)
    if strength is None:
        reason = "some methods always win against the others, or are not compared with them"
        return {str(method): Interval(np.nan, missing=reason) for method in methods}
    moved = movements(first, second, won, strength)
    people, _ = pd.factorize(choices["annotator"])
    foregrounds, _ = pd.factorize(choices["scene_id"])
    found = {}
    for method, value, own in zip(methods, strength, moved.T, strict=True):
        figure = Figure(float(value), cell_sums(people, foregrounds, own))
        found[str(method)] = figure.interval
    return found
