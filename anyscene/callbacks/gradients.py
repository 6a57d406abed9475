"""The gradient just before the optimizer step: clipped, and no step taken that isn't finite."""

import math
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from anyscene.config import TrainConfig
from anyscene.errors import RunFailedError
from anyscene.models.sharding import whole_value
from anyscene.models.trained import trained_parameters
from anyscene.module import SceneModule
from anyscene.precision import scales_loss

NAMED = 16
"""At most so many losses and keys are named."""


class Gradients(Callback):
    """Clips by the norm over all that is trained, which it leaves in `norm`.

    A loss or norm that is not finite raises `RunFailedError` before the optimizer has taken the
    step. The norm is that of the gradient summed over ranks, so that all of them see it at once.
    With fp16 an infinite gradient is no failure while the losses are finite: the gradient scaler
    then leaves the step out.
    """

    def __init__(self, train: TrainConfig) -> None:
        self.clip_norm = train.clip_norm
        self.scaled = scales_loss(train.precision)
        self.norm: Tensor | float = 0.0
        self.parameters: list[nn.Parameter] = []
        self.keys: list[list[str]] = []  # of the step's micro-batches so far
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        assert isinstance(pl_module, SceneModule)
        self.parameters = trained_parameters(pl_module.trained)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.keys, self.losses = [], []
        self.keys.append(batch["key"])

    def on_before_backward(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        loss: Tensor,
    ) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        optimizer: Any,  # noqa: ARG002
    ) -> None:
        parameters = [p for p in self.parameters if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.norm = whole_value(norm)  # over the ranks, where they share the gradient
        if not self.is_sound(trainer):
            self.stop(trainer)
        clip_grads_with_norm_(parameters, self.clip_norm, self.norm)

    def is_sound(self, trainer: Trainer) -> bool:
        """Whether the step may be taken: on all ranks alike."""
        if not self.scaled:
            return math.isfinite(self.norm)
        lost = torch.stack(self.losses).isfinite().logical_not().any().float()
        return not bool(trainer.strategy.reduce(lost, reduce_op="sum"))

    def stop(self, trainer: Trainer) -> None:
        """Raise `RunFailedError` with the losses and keys that all ranks have."""
        scale = self.loss_scale(trainer) / trainer.accumulate_grad_batches
        own = [(float(loss) / scale, k) for loss, k in zip(self.losses, self.keys, strict=True)]
        found = [pair for pairs in gathered(trainer, own) for pair in pairs]
        suspects = [keys for loss, keys in found if not math.isfinite(loss)]
        keys = [key for keys in suspects or [keys for _, keys in found] for key in keys]
        losses = ", ".join(f"{loss:.4g}" for loss, _ in found[:NAMED])
        more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        raise RunFailedError(
            f"step {trainer.global_step + 1} is not finite: losses {losses}, gradient norm "
            f"{float(self.norm):.4g}, samples {', '.join(keys[:NAMED])}{more}; the step was not "
            "taken and the last checkpoint is sound: a lower train.learning_rate, more "
            "train.warmup_steps or train.precision=bf16 (not fp16) usually helps"
        )

    def loss_scale(self, trainer: Trainer) -> float:
        """What the loss is multiplied by before the backward pass, in fp16 alone."""
        scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())


def gathered(trainer: Trainer, value: Any) -> list[Any]:
    """The value of each rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
