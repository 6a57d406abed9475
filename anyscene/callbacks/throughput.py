"""Speed, waiting and learning rate, every few steps."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from anyscene.module import SceneModule


class Throughput(Callback):
    """Logs `train/loss` (of the global batch), `train/images_per_second`,
    `train/data_wait_seconds` (a step) and `train/learning_rate` every `every` optimizer steps."""

    def __init__(self, batch_size: int, every: int) -> None:
        self.batch_size = batch_size
        self.every = every
        self.last_step = self.step = 0
        self.started = self.waiting_since = 0.0
        self.waited = 0.0
        self.loss: torch.Tensor | float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._restart(trainer)
        self.loss = 0.0
        self.step = trainer.global_step

    def on_train_batch_start(self, *_args: Any, **_kwargs: Any) -> None:
        self.waited += time.perf_counter() - self.waiting_since

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        assert isinstance(pl_module, SceneModule)
        self.loss = self.loss + outputs["loss"]  # each is its micro-batch's share of the mean
        if trainer.global_step == self.step:  # between accumulated micro-batches
            self.waiting_since = time.perf_counter()
            return
        self.step = trainer.global_step
        loss, self.loss = self.loss, 0.0
        if self.step % self.every == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            steps = self.step - self.last_step
            seconds = time.perf_counter() - self.started
            pl_module.record(
                {
                    "train/loss": float(trainer.strategy.reduce(loss)),
                    "train/images_per_second": steps * self.batch_size / seconds,
                    "train/data_wait_seconds": self.waited / steps,
                    "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                }
            )
            self._restart(trainer)
        self.waiting_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self.last_step = trainer.global_step
        self.started = self.waiting_since = time.perf_counter()
        self.waited = 0.0


class StepProgress(Callback):
    """One bar over all optimizer steps, with the time left. Lightning's counts an epoch, and the
    stream has no end."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.is_global_zero:
            start, total = trainer.global_step, int(trainer.max_steps)
            self.bar = tqdm(
                initial=start, total=total, desc="train", unit="step", dynamic_ncols=True
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        *_args: Any,
        **_kwargs: Any,
    ) -> None:
        if self.bar is not None and trainer.global_step > self.bar.n:
            if trainer.global_step % 20 == 0:
                self.bar.set_postfix(loss=f"{float(outputs['loss']):.4f}", refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.bar is not None:
            self.bar.close()
