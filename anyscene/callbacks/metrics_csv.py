"""`metrics.csv`: every logged figure as one appended line, whatever else fails."""

import csv
import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from anyscene.files import named_in_errors, replace_file
from anyscene.metrics_file import HEADER, Row, is_validated, read_metrics


class MetricsCsv(Logger):
    """A logger of (step, name, value) lines. On a restart the lines after its step are dropped, so
    that no step is there twice."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.waiting: list[Row] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def start_at(self, step: int) -> None:
        """Keep what was logged up to `step`, and write the header if the file is new.

        Of a validation that was not finished nothing is kept.
        """
        kept = [row for row in read_metrics(self.path) if row[0] <= step]
        if not is_validated(self.path, step):
            kept = [row for row in kept if row[0] < step or not row[1].startswith("val/")]

        def write(part: Path) -> None:
            with part.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([HEADER, *kept])

        with named_in_errors(self.path):
            replace_file(self.path, write)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append lines; those that a full disk refuses wait for the next call."""
        assert step is not None
        failed_before = bool(self.waiting)
        self.waiting += [(step, name, value) for name, value in metrics.items()]
        try:
            self._append()
        except OSError as error:
            if not failed_before:
                print(f"WARNING: {self.path}: {error.strerror}; its lines wait", file=sys.stderr)
        else:
            self.waiting = []

    def _append(self) -> None:
        """All waiting lines or none."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.waiting)
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            data = text.getvalue().encode()
            if file.write(data) != len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `config.yaml`."""
