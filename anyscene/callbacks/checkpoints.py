"""Checkpoints at optimizer-step boundaries, the newest few of them."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from anyscene.checkpoint import AtomicCheckpointIO
from anyscene.run_folder import read_identity


class Checkpoints(Callback):
    """Saves `step-XXXXXXXX.ckpt` every `every` steps, while training goes on, and at the end."""

    def __init__(self, folder: Path, io: AtomicCheckpointIO, every: int, start_step: int) -> None:
        self.folder = folder
        self.io = io
        self.every = every
        self.saved_step: int | None = start_step

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Whose checkpoint it is, should `run.json` be lost."""
        if trainer.is_global_zero:
            checkpoint["identity"] = read_identity(self.folder.parent)

    def on_load_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        checkpoint: dict[str, Any],
    ) -> None:
        """Count micro-batches as they are cut now: it may be otherwise than before."""
        loop = checkpoint["loops"]["fit_loop"]
        batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for progress, number in (("batch_progress", batches), ("val_loop.batch_progress", 0)):
            counters = loop[f"epoch_loop.{progress}"]
            for part in ("total", "current"):
                counters[part] = dict.fromkeys(counters[part], number)

    def on_before_optimizer_step(self, *_args: Any, **_kwargs: Any) -> None:
        """What the last checkpoint is of changes now; it was copied during the step."""
        self.io.wait_for_copy()

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
        self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Save where the run is now and wait for the disk; what was saved at this step already, but
        could not be written, once more. Raises `DamageError` if that fails."""
        if trainer.global_step == self.saved_step and self.io.failures():
            self.saved_step = None
        self._save(trainer)
        self.io.finish()

    def _save(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self.saved_step:
            return
        self.saved_step = step
        trainer.save_checkpoint(self.folder / f"step-{step:08d}.ckpt", weights_only=False)
