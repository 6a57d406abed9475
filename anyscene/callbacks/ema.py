"""Exponential moving average of what is trained, and of nothing else."""

from copy import deepcopy
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from anyscene.models.sharding import own_share
from anyscene.models.trained import load_named, select, trained_names
from anyscene.module import SceneModule

COUNT, PREFIX = "n_averaged", "module."
"""Names in a checkpoint: the number of steps, and what is before each weight's name."""


class MovingAverage(Callback):
    """Keeps `module.averaged`; after n steps its decay is min(decay, (1 + n) / (10 + n)).

    Weights of the trained network that are frozen, as with LoRA, are shared with it. With
    `on_cpu` the average is on the device in validations and after training alone.
    """

    def __init__(self, decay: float, on_cpu: bool = False) -> None:
        self.decay = decay
        self.on_cpu = on_cpu
        self.model: nn.Module | None = None
        self.names: set[str] = set()
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.updates = 0
        self.last_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        assert isinstance(pl_module, SceneModule)
        if self.model is not None:
            return
        trained = pl_module.trained
        shared = {id(p): p for p in trained.parameters() if not p.requires_grad}
        self.model = deepcopy(trained, shared)
        self.names = trained_names(trained)
        self.model.requires_grad_(False).eval()
        pl_module.averaged = self.model

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SceneModule)
        assert self.model is not None
        averaged = dict(self.model.named_parameters())
        trained = dict(pl_module.trained.named_parameters())  # other ones once they are sharded
        self.pairs = [(averaged[name], trained[name]) for name in averaged if name in self.names]
        if self.on_cpu:
            self.move("cpu")
        self.last_step = trainer.global_step  # after a resume has restored it

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.on_cpu:
            self.move(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.on_cpu:
            self.move("cpu")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.on_cpu:
            self.move(pl_module.device)

    def move(self, device: torch.device | str) -> None:
        """Move the averaged weights, and not those that are shared."""
        for averaged, _ in self.pairs:
            averaged.data = averaged.data.to(device)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        if trainer.global_step != self.last_step:  # not between accumulated micro-batches
            self.last_step = trainer.global_step
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """One step of the recursion; the first one copies."""
        n = self.updates
        averaged: list[Tensor] = [own_share(one.detach()) for one, _ in self.pairs]
        current = [own_share(now.detach()).to(one.device) for one, now in self.pairs]
        if n == 0:
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - min(self.decay, (1 + n) / (10 + n)))
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        if self.model is None:
            return {}
        weights = select(self.model.state_dict(), self.names)
        return {COUNT: torch.tensor(self.updates)} | {f"{PREFIX}{k}": v for k, v in weights.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.model is not None
        weights = {k.removeprefix(PREFIX): v for k, v in state_dict.items() if k != COUNT}
        load_named(self.model, self.names, weights)
        self.updates = int(state_dict[COUNT])
