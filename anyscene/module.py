"""The training step, in the order of the method: encode, noise, FIM, UNet, loss."""

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

from anyscene.config import Config, Injection, Trainable
from anyscene.data.augmentation import Mirror
from anyscene.data.sample import AnyHostBatch
from anyscene.data.sources import data_identity
from anyscene.data.transforms import AnyDeviceBatch, DeviceBatch, to_device_batch
from anyscene.diffusion.loss import denoising_loss
from anyscene.diffusion.random import Stream, normal, uniform
from anyscene.diffusion.schedule import Schedule, build_schedule
from anyscene.errors import ConfigError
from anyscene.models.base import encode_moments, scale_latents
from anyscene.models.injection import build_fim, control_condition, hint_kind
from anyscene.models.loading import load_base
from anyscene.models.text import micro_condition
from anyscene.pipeline import AnyScenePipeline

VALIDATION_SEED_OFFSET = 0x5EED  # keeps evaluation noise apart from training noise of the same seed


class SceneModule(LightningModule):
    """A frozen base and what is trained on it: the FIM, or the base's UNet.

    `trained` is the module with gradients; `averaged` its moving average, set by the EMA callback.
    """

    alphas_cumprod: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base = load_base(config.base.path, config.base.revision, config.base.first_stage)
        self.base_sha256 = self.base.sha256()
        schedule = build_schedule(self.base.scheduler.config)
        self.prediction = schedule.prediction
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod, persistent=False)
        self.injection = None
        if config.train.injection is Injection.fim:
            self.injection = build_fim(config.fim, self.base, config.train.seed)
        self.trained = self._select_trained()
        self.averaged: nn.Module | None = None
        self.gradient_norm: Tensor | None = None
        self.validation_loss = MeanMetric()
        self.mirror = Mirror(config.data.flip)
        self._set_speed()

    def _set_speed(self) -> None:
        """What changes time and memory, but not the method."""
        networks = [n for n in (self.base.unet, self.injection) if n is not None]
        if self.config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        for network in networks:
            if self.config.train.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            if self.config.train.compile:
                network.compile()

    @property
    def schedule(self) -> Schedule:
        """The base's forward process, on this module's device."""
        return Schedule(self.alphas_cumprod, self.prediction)

    def _select_trained(self) -> nn.Module:
        match self.config.train.trainable:
            case Trainable.fim if self.injection is not None:
                return self.injection
            case Trainable.unet:
                return self.base.unet.requires_grad_(True).train()
        raise ConfigError(
            "train.trainable=fim needs train.injection=fim; "
            "set train.trainable=unet to train the base without a foreground"
        )

    def training_step(self, batch: AnyDeviceBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        return self.sample_losses(batch, self.config.train.seed).mean()

    def sample_losses(self, batch: AnyDeviceBatch, seed: int) -> Tensor:
        """The method: the loss of every sample, B. Random draws are functions of (seed, slot)."""
        slots = batch["counter"]
        with torch.no_grad():
            latents = self.scene_latents(batch, seed)  # B c h w
            text = self.base.text(batch["prompt"])
        noise = normal(seed, slots, Stream.noise, tuple(latents.shape[1:]))
        steps = (uniform(seed, slots, Stream.timestep) * self.schedule.steps).long()  # B
        noisy = self.schedule.add_noise(latents, noise, steps)  # B c h w
        conditions = text.network_arguments(self.sizes(batch))
        residuals = self.inject(noisy, steps, conditions, batch["hint"])
        prediction = self.base.unet(noisy, steps, **conditions, **residuals).sample  # B c h w
        target = self.schedule.target(latents, noise, steps)
        return denoising_loss(
            prediction, target, batch["mask"], steps, self.schedule, self.config.loss
        )

    def scene_latents(self, batch: AnyDeviceBatch, seed: int) -> Tensor:
        """Latents drawn from the scenes' posterior, B c h w: the same from moments of a cache."""
        if "scene" in batch:
            mean, std = encode_moments(self.base.vae, batch["scene"])
        else:
            mean, std = batch["latent_mean"], batch["latent_std"]
        draw = normal(seed, batch["counter"], Stream.first_stage, tuple(mean.shape[1:]))
        return scale_latents(self.base.vae, mean + std * draw)

    def inject(
        self, noisy: Tensor, steps: Tensor, conditions: dict[str, Any], hint: Tensor
    ) -> dict[str, Any]:
        """The FIM's residuals by the names of the UNet's arguments; none without a FIM."""
        if self.injection is None:
            return {}
        with torch.no_grad():
            condition = control_condition(self.injection, self.base.vae, hint)
        down, mid = self.injection(
            noisy, steps, controlnet_cond=condition, return_dict=False, **conditions
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def sizes(self, batch: AnyDeviceBatch) -> Tensor | None:
        """SDXL's size and crop condition, B 6."""
        if not self.base.is_xl:
            return None
        size = (batch["mask"].shape[2], batch["mask"].shape[3])
        return micro_condition(batch["original_size"], batch["crop_top_left"], size)

    def validation_step(self, batch: DeviceBatch, batch_idx: int) -> None:  # noqa: ARG002
        """The loss at noise and timesteps that are the same at every validation."""
        losses = self.sample_losses(batch, self.config.train.seed + VALIDATION_SEED_OFFSET)
        self.validation_loss.update(losses)

    def on_validation_epoch_end(self) -> None:
        self.record({"val/loss": float(self.validation_loss.compute())})
        self.validation_loss.reset()

    def record(self, figures: dict[str, float]) -> None:
        """Log figures against the number of optimizer steps done. Rank zero writes."""
        for logger in self.loggers:
            logger.log_metrics(figures, step=self.global_step)

    def on_before_batch_transfer(self, batch: AnyHostBatch, dataloader_idx: int) -> AnyHostBatch:  # noqa: ARG002
        """Prompt dropout, while the slots are still on the host."""
        if not self.training:
            return batch
        share = self.config.train.prompt_dropout
        draws = uniform(self.config.train.seed, batch["counter"], Stream.prompt_dropout)
        kept = (draws >= share).tolist()
        shown = batch.copy()
        shown["prompt"] = [p if keep else "" for p, keep in zip(batch["prompt"], kept, strict=True)]
        return shown

    def on_after_batch_transfer(self, batch: AnyHostBatch, dataloader_idx: int) -> AnyDeviceBatch:  # noqa: ARG002
        """Floats and the hint; in training with augmentation."""
        if not self.training:
            return to_device_batch(batch, self.device)
        seed = self.config.train.seed
        if "scene_uint8" in batch:
            batch = self.mirror(batch, seed)
        return to_device_batch(batch, self.device, augment=self.config.data, seed=seed)

    def configure_optimizers(self) -> Any:
        train = self.config.train
        optimizer = torch.optim.AdamW(
            self.trained.parameters(),
            lr=train.learning_rate,
            betas=(train.betas[0], train.betas[1]),
            weight_decay=train.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate_factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_gradient_clipping(self, *_args: Any, **_kwargs: Any) -> None:
        """Clip by norm here: Lightning refuses to, for a fused optimizer in bf16."""
        norm = nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.train.clip_norm)
        self.gradient_norm = norm.detach()  # before clipping; on the device, read when it is logged

    def learning_rate_factor(self, step: int) -> float:
        """Linear warm-up, then a cosine down to `final_learning_rate_share`."""
        train = self.config.train
        warm = min(1.0, (step + 1) / max(1, train.warmup_steps))
        done = min(1.0, step / max(1, train.steps))
        cosine = 0.5 + 0.5 * math.cos(math.pi * done)
        return warm * (train.final_learning_rate_share * (1 - cosine) + cosine)

    def pipeline(self, averaged: bool = True) -> AnyScenePipeline:
        """The live modules as a sampler; with the moving average where there is one."""
        trained = self.averaged if averaged and self.averaged is not None else self.trained
        parts = self.base.components()
        if self.injection is None:
            parts["unet"] = trained
        else:
            parts["controlnet"] = trained
        pipeline = AnyScenePipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    # A checkpoint holds what is trained, never frozen weights.
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        return {f"trained.{name}": value for name, value in self.trained.state_dict().items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        own = {name.removeprefix("trained."): value for name, value in state_dict.items()}
        return self.trained.load_state_dict(own, strict=strict, assign=assign)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["base_sha256"] = self.base_sha256
        checkpoint["fixed"] = self.fixed_values()

    def fixed_values(self) -> dict[str, Any]:
        """What a resume must not change: the order of samples and all draws depend on it."""
        data, train = self.config.data, self.config.train
        return {
            "data.batch_size": data.batch_size,
            "data.shuffle_window": data.shuffle_window,
            "debug.overfit": self.config.debug.overfit,
            "train.seed": train.seed,
            "train.trainable": train.trainable.name,
            "train.injection": train.injection.name,
            "fim.hint": None if self.injection is None else hint_kind(self.injection).name,
            **data_identity(data),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises `ConfigError` where this run could not go on as the checkpoint's run would."""
        now = self.fixed_values()
        for key, value in checkpoint.get("fixed", {}).items():
            if now[key] != value:
                raise ConfigError(
                    f"{key} is {now[key]}, but the checkpoint to go on from was made with {value}; "
                    f"give {value} again, or start a run of another name"
                )
        stated = checkpoint["base_sha256"]
        if stated != self.base_sha256 and self.config.train.trainable is Trainable.fim:
            raise ConfigError(
                f"the checkpoint was trained on a base with sha256 {stated[:16]}..., but "
                f"base.path={self.config.base.path!r} has {self.base_sha256[:16]}...; "
                "give the same base or start a run of another name"
            )
