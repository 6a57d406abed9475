"""Checkpoints at optimizer-step boundaries, the newest few of them."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from anyscene.checkpoint import checkpoints


class Checkpoints(Callback):
    """Saves `step-XXXXXXXX.ckpt` every `every` steps and at the end; keeps the newest `keep`."""

    def __init__(self, folder: Path, every: int, keep: int) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.saved_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self.saved_step = trainer.global_step  # after a resume has restored it

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        if trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self.saved_step:
            return
        self.saved_step = step
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt", weights_only=False)
        if trainer.is_global_zero:
            for old in checkpoints(self.folder)[self.keep :]:
                trainer.strategy.checkpoint_io.remove_checkpoint(old)
