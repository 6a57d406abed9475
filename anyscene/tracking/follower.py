"""The training process's end of W&B: a process is started, looked at, and ended in time."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from anyscene.tracking.follow import TOLD, kill_children, later

MARGIN_SECONDS = 5.0
"""The follower ends itself within its time; after so much more it is killed."""


class WandbFollower(Logger):
    """Lets W&B follow a run folder, see `tracking.follow`. Nothing but `end` waits for W&B.

    As a logger it is told of every figure, and takes the occasion to see whether W&B is alive.
    """

    def __init__(self, run: Path, wait_seconds: float) -> None:
        super().__init__()
        self.run = run
        self.wait_seconds = wait_seconds
        command = [sys.executable, "-m", "anyscene.tracking.follow", str(run)]
        options = ["--wait", str(wait_seconds), "--process", str(os.getpid())]
        environment = {k: v for k, v in os.environ.items() if "WANDB_SERVICE" not in k}
        self.process: subprocess.Popen | None = subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, env=environment, start_new_session=True
        )

    @property
    def name(self) -> str:
        return "wandb"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # noqa: ARG002
        """The figures are in metrics.csv, where the follower finds them."""
        if self.process is not None and self.process.poll() is not None:
            self._ended()

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The configuration is in `config.yaml`."""

    def end(self, finished: bool) -> None:
        """Give W&B its last seconds. `finished`: whether the run ended as it should."""
        if self.process is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self.process.communicate(
                b"0" if finished else b"", timeout=self.wait_seconds + MARGIN_SECONDS
            )
        if self.process.poll() is None:
            kill_children(self.process.pid)
            self.process.kill()
            self.process.wait()
        self._ended()

    def _ended(self) -> None:
        """Say so once, unless all went well or the follower has said so itself."""
        assert self.process is not None
        status = self.process.wait()
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        if status not in (0, TOLD):
            how = signal.Signals(-status).name if status < 0 else f"exit code {status}"
            print(
                f"WARNING: W&B has stopped ({how}); the run goes on. {later(self.run)}",
                file=sys.stderr,
            )
        self.process = None
