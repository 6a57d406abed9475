"""Stops a run between optimizer steps, on all ranks alike, when any of them was asked to."""

from datetime import timedelta
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

from anyscene.callbacks.checkpoints import Checkpoints
from anyscene.preemption import RunStopped, stop_requested


class Preemption(Callback):
    """Saves and raises `RunStopped` once a rank has a signal waiting.

    The ranks agree before the first micro-batch of an optimizer step, and after a validation: one
    that is cut short logs nothing and is done again by the next start. It must be the first
    callback, so that no other one sees the end of such a validation.

    What they ask each other before a step is answered while they compute it: no step waits for the
    network, and a stop comes a step later. The first question of a start is answered at once.
    """

    def __init__(self, checkpoints: Checkpoints, timeout: timedelta) -> None:
        self.checkpoints = checkpoints
        self.timeout = timeout
        self.group: Any = None
        self.agreed_step: int | None = None
        self.question: tuple[Any, torch.Tensor] | None = None  # on its way to all ranks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        if trainer.world_size > 1 and self.group is None:
            # gloo: no kernel of the device is waited for
            self.group = distributed.new_group(backend="gloo", timeout=self.timeout)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        if trainer.global_step != self.agreed_step:  # not between accumulated micro-batches
            self.agreed_step = trainer.global_step
            before, self.question = self.question, self._ask()
            if before is None or self.group is None:
                before = self.question
            self._stop_if(self._answer(before), trainer)

    def on_validation_batch_start(self, *_args: Any, **_kwargs: Any) -> None:
        if stop_requested():
            raise StopIteration  # ends Lightning's loop over the batches, on this rank

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._stop_if(self._answer(self._ask()), trainer)

    def _ask(self) -> tuple[Any, torch.Tensor]:
        """Begin to find out whether any rank has a signal waiting."""
        flag = torch.tensor(int(stop_requested()))
        if self.group is None:
            return None, flag
        largest = distributed.ReduceOp.MAX
        return distributed.all_reduce(flag, largest, group=self.group, async_op=True), flag

    def _answer(self, question: tuple[Any, torch.Tensor]) -> bool:
        """What the ranks have agreed on."""
        work, flag = question
        if work is not None:
            work.wait()
        return bool(flag)

    def _stop_if(self, asked: bool, trainer: Trainer) -> None:
        if asked:
            self.checkpoints.save_last(trainer)
            raise RunStopped(trainer.global_step)
