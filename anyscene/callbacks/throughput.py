"""Speed, waiting, gradient, memory and learning rate, every few steps."""

import resource
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from anyscene.callbacks.gradients import Gradients
from anyscene.module import SceneModule

GIB = 2**30


class Throughput(Callback):
    """Logs every `every` optimizer steps, for the time since the last line where that matters:

    `train/loss` of the global batch, `train/gradient_norm` before clipping, `train/learning_rate`,
    `train/images_per_second`, `train/data_wait_seconds` a step, `train/memory_gib`; in fp16
    `train/loss_scale`, which halves with each step that was left out; and, where `images_at_peak`
    is known, `train/mfu`: the share of the devices' peak rate that the step's counted operations
    take. `images_at_peak` is how many images a second that rate would do.
    """

    def __init__(
        self,
        batch_size: int,
        every: int,
        gradients: Gradients,
        images_at_peak: float | None = None,
    ) -> None:
        self.gradients = gradients
        self.batch_size = batch_size
        self.every = every
        self.images_at_peak = images_at_peak
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
            speed = steps * self.batch_size / (time.perf_counter() - self.started)
            figures = {
                "train/loss": float(trainer.strategy.reduce(loss)),
                "train/images_per_second": speed,
                "train/data_wait_seconds": self.waited / steps,
                "train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "train/gradient_norm": float(self.gradients.norm),
                "train/memory_gib": peak_memory() / GIB,
            }
            if self.gradients.scaled:
                figures["train/loss_scale"] = self.gradients.loss_scale(trainer)
            if self.images_at_peak is not None:
                figures["train/mfu"] = speed / self.images_at_peak
            pl_module.record(figures)
            self._restart(trainer)
        self.waiting_since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._restart(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self.last_step = trainer.global_step
        self.started = self.waiting_since = time.perf_counter()
        self.waited = 0.0


def peak_memory() -> int:
    """Most bytes that this process has had: of the GPU since the last call, without one of RAM."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


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
                loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
                self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.bar is not None:
            self.bar.close()
