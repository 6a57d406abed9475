"""`python -m recorder FOLDER ...`: the `anyscene` command in a job, its steps noted and held.

Every rank appends a line a training step to FOLDER/rank-N.jsonl: the start (0 for the first), the
step that it begins, and its samples. Words START:PLACE:STEP:RANKS in `HOLDS` hold ranks there
until a signal waits or the file FOLDER/go-START is there, so that tests wait for states, not times.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from anyscene.cli import main
from anyscene.commands import train as command

START = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
IDENTITY = f"{os.environ['SLURM_JOB_ID']}:{START}"
RANK = int(os.environ["SLURM_PROCID"])


def install(folder: Path) -> None:
    """Record and hold, once the command has held its signals and imports what it needs."""
    train_held = command._train_held

    def recorded(options: Any) -> Path:
        patch(folder)
        return train_held(options)

    command._train_held = recorded


def patch(folder: Path) -> None:
    """Let the places that tests ask for pass through here."""
    from anyscene import checkpoint
    from anyscene.module import SceneModule

    training_step, validation_step = SceneModule.training_step, SceneModule.validation_step
    write_checkpoint = checkpoint.write_checkpoint

    def train(self: SceneModule, batch: Any, batch_idx: int) -> Any:
        hold(folder, "train", self.global_step + 1)
        line = {"start": IDENTITY, "step": self.global_step + 1, "keys": batch["key"]}
        with (folder / f"rank-{RANK}.jsonl").open("a") as file:
            file.write(json.dumps({**line, "slots": batch["counter"].tolist()}) + "\n")
        return training_step(self, batch, batch_idx)

    def validate(self: SceneModule, batch: Any, batch_idx: int) -> None:
        hold(folder, "validation", self.global_step)
        validation_step(self, batch, batch_idx)

    def write(values: dict[str, Any], path: Path) -> None:
        hold(folder, "write", values["global_step"])
        write_checkpoint(values, path)

    SceneModule.training_step = train
    SceneModule.validation_step = validate
    checkpoint.write_checkpoint = write


def hold(folder: Path, place: str, step: int) -> None:
    """Wait here if the test wants it; the file `held-START-RANK` says that this rank does."""
    from anyscene.preemption import stop_requested

    for line in os.environ.get("HOLDS", "").split():
        start, where, wanted, ranks = line.split(":")
        if (int(start), where, int(wanted)) == (START, place, step) and str(RANK) in ranks:
            (folder / f"held-{START}-{RANK}").write_text(f"{os.getpid()}\n")
            while not stop_requested() and not (folder / f"go-{START}").exists():
                time.sleep(0.05)


if __name__ == "__main__":
    folder = Path(sys.argv[1], os.environ.get("SLURM_ARRAY_TASK_ID", ""))
    folder.mkdir(exist_ok=True)
    (folder / f"begun-{START}-{RANK}").write_text(f"{os.getpid()}\n")
    install(folder)
    sys.exit(main(sys.argv[2:]))
