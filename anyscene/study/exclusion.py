"""Whose answers are left out of the second analysis: by rules that the protocol fixed before."""

import pandas as pd

from anyscene.study.protocol import Exclusion


def judge_people(frame: pd.DataFrame, rules: Exclusion) -> pd.DataFrame:
    """A row for each person who answered: pace, attention checks, and why excluded (or empty).

    A check fails by any wrong value. The pace is the median of items that are no checks.
    """
    rows = []
    for annotator, own in frame.groupby("annotator", observed=True):
        items = own.drop_duplicates("item")
        checks = own.loc[own["check"]]
        wrong = checks.loc[checks["value"] != checks["expected"]]
        seconds = items.loc[~items["check"], "seconds"]
        rows.append(
            {
                "annotator": str(annotator),
                "items": len(seconds),
                "median_seconds": float(seconds.median()),
                "checks": len(set(checks["item"])),
                "failed_checks": len(set(wrong["item"])),
            }
        )
    people = pd.DataFrame(rows)
    people["excluded"] = [_reason(person, rules) for person in rows]
    return people


def without_excluded(frame: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """The answers of those whom `judge_people` gives no reason to exclude."""
    kept = people.loc[people["excluded"] == "", "annotator"]
    return frame.loc[frame["annotator"].isin(kept)]


def _reason(person: dict, rules: Exclusion) -> str:
    reasons = []
    if person["failed_checks"] > rules.max_failed_checks:
        reasons.append(
            f"failed {person['failed_checks']} of {person['checks']} attention checks, "
            f"more than {rules.max_failed_checks}"
        )
    if person["median_seconds"] < rules.min_median_seconds:
        reasons.append(
            f"a median of {person['median_seconds']:.1f} s an item, "
            f"less than {rules.min_median_seconds:g} s"
        )
    return "; ".join(reasons)
