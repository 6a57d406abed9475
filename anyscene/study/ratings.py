"""Answers as a table, for statistics and for people."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import pandas as pd

from anyscene.study.records import Answer

COLUMNS = tuple(own.name for own in fields(Answer))
LABELS = ("annotator", "scene_id", "prompt", "criterion", "image", "image_b")
"""Columns of few different values, held as categories, as are those of methods."""


def ratings_frame(answers: Iterable[Answer], methods: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each answer and a column for each of its fields.

    methods: in the order that tables are to have; otherwise they are sorted.
    """
    frame = pd.DataFrame([vars(answer) for answer in answers], columns=list(COLUMNS))
    names = methods or sorted({*frame["method"], *frame["method_b"]} - {""})
    order = pd.CategoricalDtype(["", *names])
    kinds = dict.fromkeys(LABELS, "category") | {"method": order, "method_b": order}
    return frame.astype({**kinds, "expected": "Int64"})


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """The answers that count in means: first ones, of images that are no attention checks."""
    return frame.loc[~frame["check"] & frame["repeat_of"].isna()]


def repeated(frame: pd.DataFrame) -> pd.DataFrame:
    """Items rated twice: annotator, criterion, and their values `first` and `again`."""
    keys = ["annotator", "item", "criterion"]
    again = frame.loc[frame["repeat_of"].notna()].drop(columns="item")
    again = again.rename(columns={"repeat_of": "item", "value": "again"})
    first = counted(frame).rename(columns={"value": "first"})
    return first[[*keys, "first"]].merge(again[[*keys, "again"]], on=keys)
