"""All that is computed of a study's answers, once for everyone and once without those excluded."""

from dataclasses import dataclass

import pandas as pd

from anyscene.study.agreement import alphas, self_consistency
from anyscene.study.bradley_terry import strengths
from anyscene.study.exclusion import judge_people, without_excluded
from anyscene.study.protocol import Protocol
from anyscene.study.ratings import counted
from anyscene.study.statistics import differences, method_means, preferences


@dataclass(frozen=True)
class Analysis:
    """Tables of numbers; a number that cannot be is NaN, and `missing` in its row says why."""

    methods: pd.DataFrame  # `method_means`, or `strengths` of a pairwise study
    comparisons: pd.DataFrame  # `differences`, or `preferences`
    alphas: pd.DataFrame
    consistency: pd.DataFrame


@dataclass(frozen=True)
class Results:
    """What a study says."""

    people: pd.DataFrame  # `judge_people`
    everyone: Analysis
    kept: Analysis | None  # without the excluded; None: nobody is excluded, or everybody


def analyse_study(frame: pd.DataFrame, protocol: Protocol) -> Results:
    """Both analyses. frame: `ratings_frame`, with answers to at least one item that counts."""
    people = judge_people(frame, protocol.exclusion)
    kept = without_excluded(frame, people)
    changed = len(counted(kept)) > 0 and len(kept) < len(frame)
    return Results(people, analyse(frame, protocol), analyse(kept, protocol) if changed else None)


def analyse(frame: pd.DataFrame, protocol: Protocol) -> Analysis:
    """One analysis of the answers of some people."""
    own = counted(frame)
    if protocol.kind == "rating":
        methods, comparisons = method_means(own, protocol.scale), differences(own, protocol.seed)
    else:
        methods, comparisons = strengths(own), preferences(own, protocol.seed)
    return Analysis(methods, comparisons, alphas(own), self_consistency(frame, protocol.values))
