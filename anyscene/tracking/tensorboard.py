"""TensorBoard's files, which cannot stop a run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Logger):
    """Writes every figure into a folder for TensorBoard until the disk refuses it: from then on
    `metrics.csv` alone has the figures, of which a line tells.

    Args:
        folder: of the event files.
        purge_step: what earlier starts have logged from this step on is hidden.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        super().__init__()
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self._unless_refused(lambda: self._open(purge_step))

    def _open(self, purge_step: int) -> None:
        self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)

    @property
    def name(self) -> str:
        return "tensorboard"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        def write(writer: SummaryWriter) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)

        self._with_writer(write)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `config.yaml`."""

    def save(self) -> None:
        self._with_writer(SummaryWriter.flush)

    def finalize(self, status: str) -> None:  # noqa: ARG002
        self._with_writer(SummaryWriter.flush)  # not closed: a validation may follow

    def _with_writer(self, use: Callable[[SummaryWriter], None]) -> None:
        if self.writer is not None:
            writer = self.writer
            self._unless_refused(lambda: use(writer))

    def _unless_refused(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # TensorFlow has its own; perhaps of an earlier figure
            self.writer = None
            reason = getattr(error, "strerror", None) or error
            print(
                f"WARNING: {self.folder}: {reason}; the run goes on without TensorBoard, "
                "and metrics.csv has the figures",
                file=sys.stderr,
            )
