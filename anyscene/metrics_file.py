"""Reading `metrics.csv`: lines of step, name and value. No torch here."""

import csv
from pathlib import Path

from anyscene.errors import DamageError

HEADER = ("step", "name", "value")
Row = tuple[int, str, float]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`; a torn last line is left out.

    Raises `DamageError` where a step or a value is no number.
    """
    if not path.is_file():
        return []
    try:
        return parse_rows(path.read_text().rpartition("\n")[0])
    except ValueError as error:
        raise DamageError(f"{path} is damaged: {error}; mend or remove that line") from None


def parse_rows(lines: str) -> list[Row]:
    """The rows of whole lines, with or without the header."""
    rows = [row for row in csv.reader(lines.splitlines()) if len(row) == 3 and row != list(HEADER)]
    return [(int(step), name, float(value)) for step, name, value in rows]


def is_validated(path: Path, step: int) -> bool:
    """Whether a `metrics.csv` has a whole validation at a step; its loss is logged last."""
    return any(row[:2] == (step, "val/loss") for row in read_metrics(path))
