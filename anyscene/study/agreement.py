"""How far people agree with each other, and with themselves."""

from typing import Any

import krippendorff
import numpy as np
import pandas as pd
from statsmodels.stats.inter_rater import cohens_kappa

from anyscene.study.ratings import repeated
from anyscene.study.statistics import by_criterion


def alphas(ratings: pd.DataFrame) -> pd.DataFrame:
    """Krippendorff's alpha of each criterion, ordinal: 1 is full agreement, 0 that of chance.

    ratings: `ratings.counted`.
    """
    rows = []
    for criterion, own in by_criterion(ratings):
        table = own.pivot(index="annotator", columns="item", values="value")
        shared = table.loc[:, table.notna().sum() >= 2]
        people = int(shared.notna().any(axis=1).sum())  # who share an item with somebody
        row = {"criterion": criterion, "people": people, "items": shared.shape[1]}
        rows.append(row | _alpha(shared.to_numpy(float)))
    return pd.DataFrame(rows)


def self_consistency(frame: pd.DataFrame, values: tuple[int, ...]) -> pd.DataFrame:
    """Of items that people rated twice, by criterion: how often and how far they said the same.

    `exact`: share of equal values. `mean_difference`: mean absolute difference. `kappa`: Cohen's,
    with quadratic weights: what is left of the agreement after that of chance.
    values: that an answer may have.
    """
    rows = []
    for criterion, own in by_criterion(repeated(frame)):
        first, again = own["first"].to_numpy(), own["again"].to_numpy()
        row = {
            "criterion": criterion,
            "people": own["annotator"].nunique(),
            "repeats": len(own),
            "exact": float((first == again).mean()),
            "mean_difference": float(abs(first - again).mean()),
        }
        rows.append(row | _kappa(first, again, values))
    return pd.DataFrame(rows)


def _alpha(table: np.ndarray) -> dict[str, Any]:
    """People x items, NaN where a person did not rate."""
    if not table.size:
        return {"alpha": np.nan, "missing": "no item is rated by two people"}
    if np.nanmin(table) == np.nanmax(table):
        return {"alpha": np.nan, "missing": "the ratings do not vary"}
    alpha = krippendorff.alpha(reliability_data=table, level_of_measurement="ordinal")
    return {"alpha": float(alpha), "missing": ""}


def _kappa(first: np.ndarray, again: np.ndarray, values: tuple[int, ...]) -> dict[str, Any]:
    table = np.array([[((first == a) & (again == b)).sum() for b in values] for a in values])
    if (table.sum(0) * table.sum(1)).max() == len(first) ** 2:
        return {"kappa": np.nan, "missing": "the ratings do not vary"}
    kappa = cohens_kappa(table, weights=np.array(values), wt="quadratic", return_results=False)
    return {"kappa": float(np.asarray(kappa)), "missing": ""}
