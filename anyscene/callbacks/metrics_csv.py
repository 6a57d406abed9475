"""`metrics.csv`: every logged figure as one appended line, whatever else fails."""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from anyscene.files import replace_file

HEADER = ("step", "name", "value")


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """The rows of a `metrics.csv`; a torn last line is left out."""
    if not path.is_file():
        return []
    whole = path.read_text().rpartition("\n")[0]
    rows = [row for row in csv.reader(whole.splitlines()) if len(row) == 3 and row != list(HEADER)]
    return [(int(step), name, float(value)) for step, name, value in rows]


class MetricsCsv(Logger):
    """A logger of (step, name, value) lines. On a restart the lines after its step are dropped, so
    that no step is there twice."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def start_at(self, step: int) -> None:
        """Keep what was logged up to `step`, and write the header if the file is new."""
        kept = [row for row in read_metrics(self.path) if row[0] <= step]

        def write(part: Path) -> None:
            with part.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([HEADER, *kept])

        replace_file(self.path, write)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        rows = [(step, name, value) for name, value in metrics.items()]
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `config.yaml`."""
