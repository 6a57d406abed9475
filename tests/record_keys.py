"""`python -m record_keys FOLDER ...`: the `anyscene` command that also notes its batches' keys.

Every rank writes a line a micro-batch to FOLDER/keys-RANK.jsonl. Lightning starts the other ranks
with the same command, as it does for `python -m anyscene.cli`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from anyscene.cli import main


def record(folder: Path) -> None:
    """Note the keys of each training micro-batch from now on."""
    import torch

    from anyscene.module import SceneModule

    training_step = SceneModule.training_step
    path = folder / f"keys-{os.environ.get('LOCAL_RANK', '0')}.jsonl"

    def note(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        with path.open("a") as file:
            file.write(json.dumps(batch["key"]) + "\n")
        return training_step(self, batch, batch_idx)

    SceneModule.training_step = note


if __name__ == "__main__":
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    record(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
