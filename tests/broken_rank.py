"""`python -m broken_rank ...`: the `anyscene` command; rank 1's loss of the third step is NaN."""

import os
import sys
from typing import Any

from anyscene.cli import main


def break_rank_one() -> None:
    """From now on the third step's loss is no number on rank 1."""
    import torch

    from anyscene.module import SceneModule

    training_step = SceneModule.training_step

    def broken(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = training_step(self, batch, batch_idx)
        second = os.environ.get("LOCAL_RANK") == "1"
        return loss * float("nan") if second and self.global_step == 2 else loss

    SceneModule.training_step = broken


if __name__ == "__main__":
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    break_rank_one()
    sys.exit(main(sys.argv[1:]))
