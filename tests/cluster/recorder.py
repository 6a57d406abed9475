"""`python -m recorder FOLDER ...`: the `anyscene` command in a job, which notes and holds its steps.

Every rank appends a line a training step to FOLDER/rank-N.jsonl: the start (0 for the first), the
step that it begins, and its samples. `HOLD=PLACE:STEP:RANKS` holds ranks of the first start at a
place until a signal waits or the file FOLDER/go is there, so that tests wait for states, not times.
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
        line = {"start": START, "step": self.global_step + 1, "keys": batch["key"]}
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
    """Wait here if the test wants it; the file `held-RANK` says that this rank does."""
    from anyscene.preemption import stop_requested

    where, wanted, ranks = os.environ.get("HOLD", "none:0:0").split(":")
    if START or (where, int(wanted)) != (place, step) or str(RANK) not in ranks:
        return
    (folder / f"held-{RANK}").write_text(str(os.getpid()))
    while not stop_requested() and not (folder / "go").exists():
        time.sleep(0.05)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / f"begun-{START}-{RANK}").touch()
    install(folder)
    sys.exit(main(sys.argv[2:]))
