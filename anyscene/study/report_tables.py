"""The numbers of a study as tables of text, for a page and for Markdown alike."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from anyscene.study.analysis import Analysis
from anyscene.study.model import least_p
from anyscene.study.protocol import Protocol

Cell = tuple[str, str]
"""A number, and in small what belongs to it."""

NOT_COMPUTED = "not computed"
NO_RATINGS: Cell = (NOT_COMPUTED, "no ratings")
LEAST_P = 0.001  # smaller ones are not told apart
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Table:
    """A heading, column titles, rows whose first cell names them, and remarks below."""

    title: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    remark: str = ""


def method_table(analysis: Analysis, protocol: Protocol, methods: Sequence[str]) -> Table:
    """A row a method and a column a criterion: the table that a study is for."""
    name = "mean" if protocol.kind == "rating" else "strength"
    rows = analysis.methods.set_index(["criterion", "method"]).to_dict("index")
    names = [criterion.name for criterion in protocol.criteria]
    titles = {
        "mean": f"Mean rating, {protocol.scale.low} to {protocol.scale.high}",
        "strength": "Strength (Bradley-Terry, logarithmic, 0 is the average)",
    }
    return Table(
        titles[name],
        ["Method", *(criterion.title for criterion in protocol.criteria)],
        [
            [(method, ""), *(_figure(rows.get((own, method)), name) for own in names)]
            for method in methods
        ],
        "With 95 % intervals.",
    )


def basis_table(analysis: Analysis, protocol: Protocol, methods: Sequence[str]) -> Table:
    """What each number of `method_table` rests on; an item is rated on all criteria at once."""
    own = analysis.methods.loc[analysis.methods["criterion"] == protocol.criteria[0].name]
    what = ["ratings", "images", "people", "foregrounds"]
    rows = own.set_index("method")[what].reindex(methods, fill_value=0).to_dict("index")
    return Table(
        "What each number rests on",
        ["Method", "Answers", "Images", "People", "Foregrounds"],
        [
            [(method, ""), *((f"{row[name]:,}", "") for name in what)]
            for method, row in rows.items()
        ],
    )


def comparison_table(analysis: Analysis, protocol: Protocol) -> Table:
    """A row for each two methods and a column for each criterion."""
    rating = protocol.kind == "rating"
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for row in analysis.comparisons.to_dict("records"):
        value, small = _figure(row, "difference" if rating else "share")
        tested = row["p_missing"] or f"p {_p(row['p'])}, corrected {_p(row['p_holm'])}"
        cells = rows.setdefault((row["first"], row["second"]), {})
        cells[row["criterion"]] = value, f"{small}; {tested}"
    family = len(rows)
    people, foregrounds = (int(max(analysis.methods[key])) for key in ("people", "foregrounds"))
    least = least_p(people, foregrounds)
    remark = (
        f"With 95 % intervals; p of swapping labels, corrected by Holm for the {family} "
        "comparisons of a criterion."
    )
    if least >= LEAST_P and family:
        few = f"{people} people" if people <= foregrounds else f"{foregrounds} foregrounds"
        remark += (
            f" With {few} no p can be below {_p(least)}, nor the smallest corrected one "
            f"below {_p(least * family)}."
        )
    return Table(
        "Differences of means" if rating else "Share in which the first method is preferred",
        ["Methods", *(criterion.title for criterion in protocol.criteria)],
        [
            [
                (f"{first} {MINUS if rating else 'over'} {second}", ""),
                *(cells.get(criterion.name, NO_RATINGS) for criterion in protocol.criteria),
            ]
            for (first, second), cells in rows.items()
        ],
        remark,
    )


def agreement_table(analysis: Analysis, protocol: Protocol) -> Table:
    """Agreement with others and with oneself, a row a criterion."""
    others = {row["criterion"]: row for row in analysis.alphas.to_dict("records")}
    own = {row["criterion"]: row for row in analysis.consistency.to_dict("records")}
    rows = []
    for criterion in protocol.criteria:
        alpha, again = others.get(criterion.name), own.get(criterion.name)
        cells = [(criterion.title, ""), _alpha(alpha)]
        if again is None:
            cells += [(NOT_COMPUTED, "no item was rated twice"), ("", ""), ("", "")]
        else:
            same = f"{100 * again['exact']:.0f} %"
            cells += [(same, f"of {again['repeats']:,}"), (_number(again["mean_difference"]), "")]
            cells.append(_figure(again, "kappa"))
        rows.append(cells)
    columns = ["Criterion", "Alpha", "Same value again", "Mean absolute change", "Weighted kappa"]
    return Table("Agreement with others, and with oneself", columns, rows)


def people_table(people: pd.DataFrame, silent: Iterable[str]) -> Table:
    """A row a person. `silent`: those without any answer."""
    rows = [
        [
            (person["annotator"], ""),
            (f"{person['items']:,}", ""),
            (f"{person['median_seconds']:.1f} s" if person["items"] else "", ""),
            (f"{person['failed_checks']} of {person['checks']}", ""),
            (person["excluded"] or "no", ""),
        ]
        for person in people.to_dict("records")
    ]
    rows += [[(name, ""), ("0", ""), ("", ""), ("", ""), ("no answers", "")] for name in silent]
    columns = ["Person", "Items", "Median time", "Failed checks", "Excluded"]
    return Table("People", columns, rows)


def _figure(row: dict[str, Any] | None, name: str) -> Cell:
    """A value with its interval, if it has one; otherwise why not."""
    if row is None:
        return NO_RATINGS
    value, missing = row[name], row["missing"]
    if not math.isfinite(value):
        return NOT_COMPUTED, missing
    if missing:
        return _number(value), f"no interval: {missing}"
    if "low" not in row:
        return _number(value), ""
    return _number(value), f"{_number(row['low'])} to {_number(row['high'])}"


def _alpha(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return NO_RATINGS
    if row["missing"]:
        return NOT_COMPUTED, row["missing"]
    return _number(row["alpha"]), f"{row['items']:,} items, {row['people']} people"


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", MINUS)  # no minus before a zero


def _p(value: float) -> str:
    if not math.isfinite(value):
        return NOT_COMPUTED
    return f"< {LEAST_P}" if value < LEAST_P else f"{min(value, 1):.3f}"
