"""A validation that a stop or a death cut short is done by the next start."""

from lightning import Callback, LightningModule, Trainer


class MissedValidation(Callback):
    """Validates before the first step. It must be the last callback: the others begin first."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        trainer.validating = True  # as Lightning does between steps
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
