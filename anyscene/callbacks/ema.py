"""Exponential moving average of what is trained, and of nothing else."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from anyscene.module import SceneModule


class MovingAverage(Callback):
    """Keeps `module.averaged`; after n steps its decay is min(decay, (1 + n) / (10 + n))."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.model: AveragedModel | None = None
        self.last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        assert isinstance(pl_module, SceneModule)
        if self.model is None:
            self.model = AveragedModel(pl_module.trained, multi_avg_fn=self._average)
            self.model.requires_grad_(False)
            self.model.eval()
            pl_module.averaged = self.model.module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self.model is not None
        self.model.to(pl_module.device)
        self.last_step = trainer.global_step  # after a resume has restored it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_args: Any, **_kwargs: Any
    ) -> None:
        assert self.model is not None
        assert isinstance(pl_module, SceneModule)
        if trainer.global_step != self.last_step:  # not between accumulated micro-batches
            self.last_step = trainer.global_step
            self.model.update_parameters(pl_module.trained)

    @torch.no_grad()
    def _average(
        self, averaged: PARAM_LIST, current: PARAM_LIST, updates: torch.Tensor | int
    ) -> None:
        n = int(updates)
        torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + n) / (10 + n)))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.model is None else self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.model is not None
        self.model.load_state_dict(state_dict, strict=True)
