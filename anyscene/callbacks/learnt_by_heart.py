"""The few samples of `debug.overfit` beside what the model makes of them at the end."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from anyscene.callbacks.scenes import warned_of_a_full_disk, write_grid
from anyscene.config import SampleConfig
from anyscene.data.transforms import AnyDeviceBatch
from anyscene.metrics.fidelity import masked_psnr
from anyscene.models.base import decode_latents, scale_latents
from anyscene.module import SceneModule
from anyscene.sampler import sample_options, sample_scenes

COLUMNS = ("foreground", "mask", "real")


class LearntByHeart(Callback):
    """Draws the first `count` training samples at the end of training, on rank zero.

    Writes `samples/step-XXXXXXXX/overfit.png` and logs `overfit/psnr`, the mean over samples of
    the whole image before blending, in dB. A model that learns reaches the first stage's own
    figure nearly; one that stays far from it after some hundred steps has a fault that more data
    will not mend. Scenes of a cache are those that its latents hold.
    """

    def __init__(self, folder: Path, config: SampleConfig, count: int) -> None:
        self.folder = folder
        self.config = config
        self.count = count
        self.samples: dict[str, dict[str, Any]] = {}  # by key

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: AnyDeviceBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        assert isinstance(pl_module, SceneModule)
        wanted = trainer.is_global_zero and len(self.samples) < self.count
        if not wanted or set(batch["key"]) <= self.samples.keys():
            return
        scene = scenes_of(batch, pl_module)
        for place, key in enumerate(batch["key"]):
            if not batch["prompt"][place] or not batch["hint"][place].any():
                continue  # dropped, as sometimes in training
            self.samples[key] = {
                "foreground": batch["hint"][place, :3],
                "mask": batch["mask"][place],
                "real": scene[place],
                "prompt": batch["prompt"][place],
            }

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SceneModule)
        if not self.samples:
            return
        rows = [self.samples[key] for key in sorted(self.samples)[: self.count]]
        columns = {name: torch.stack([row[name] for row in rows]) for name in COLUMNS}
        prompts = [row["prompt"] for row in rows]
        with trainer.precision_plugin.forward_context():
            output = sample_scenes(
                pl_module.pipeline(),
                prompts,
                [self.config.seed + number for number in range(len(rows))],
                columns["foreground"],
                columns["mask"],
                micro_batch=len(rows),
                **sample_options(self.config),
            )
        generated = torch.as_tensor(output.raw_images)
        everywhere = torch.ones_like(columns["mask"], dtype=torch.bool)
        found = masked_psnr(generated, columns["real"], everywhere)
        pl_module.record({"overfit/psnr": float(found.mean())})
        columns = columns | {"generated": generated}
        folder = self.folder / f"step-{trainer.global_step:08d}"
        with warned_of_a_full_disk(folder):
            write_grid(folder / "overfit.png", columns, prompts)


@torch.no_grad()
def scenes_of(batch: AnyDeviceBatch, module: SceneModule) -> Tensor:
    """The scenes of a batch, B 3 H W in [0, 1]; those of a cache decoded."""
    if "scene" in batch:
        return batch["scene"] / 2 + 0.5
    vae = module.base.vae
    decoded = decode_latents(vae, scale_latents(vae, batch["latent_mean"]))
    return (decoded.float() / 2 + 0.5).clamp(0, 1)
