"""The training step, in the order of the method: encode, noise, FIM, UNet, loss."""

import math
from typing import Any

import torch
from diffusers import ControlNetModel
from lightning import LightningModule
from torch import Tensor, nn

from anyscene.config import Config, Injection, Strategy, Trainable
from anyscene.data.augmentation import Mirror, drop_hints
from anyscene.data.sample import AnyHostBatch
from anyscene.data.transforms import AnyDeviceBatch, DeviceBatch, to_device_batch
from anyscene.diffusion.loss import denoising_loss, offset_noise, prior_preserving
from anyscene.diffusion.random import Stream, normal, uniform
from anyscene.diffusion.schedule import Schedule, build_schedule, rescale_to_zero_snr
from anyscene.errors import ConfigError
from anyscene.metrics.denoising import DenoisingLoss
from anyscene.models.attention import compile_blocks, use_xformers, wants_xformers
from anyscene.models.base import Base, encode_moments, scale_latents, store_frozen
from anyscene.models.concepts import train_concepts
from anyscene.models.injection import build_fim, control_condition, take_first_embedder
from anyscene.models.loading import load_base
from anyscene.models.lora import add_lora
from anyscene.models.sharding import shard_network
from anyscene.models.text import micro_condition
from anyscene.models.trained import load_named, trained_names, trained_parameters, trained_state
from anyscene.optimizer import build_optimizer
from anyscene.pipeline import AnyScenePipeline
from anyscene.precision import COMPUTED_IN
from anyscene.resume import check_resume, fixed_values, frozen_fim_sha256, use_new_rates

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
        if config.train.zero_terminal_snr:
            self.base.scheduler = rescale_to_zero_snr(self.base.scheduler)
        schedule = build_schedule(self.base.scheduler.config)
        self.prediction = schedule.prediction
        self.register_buffer("alphas_cumprod", schedule.alphas_cumprod, persistent=False)
        self.injection = None
        if config.train.injection is Injection.fim:
            self.injection = build_fim(config.fim, self.base, config.train.seed)
        self.fim_sha256 = frozen_fim_sha256(config, self.injection)
        self.trained = self._select_trained()
        if config.train.lora_rank:
            add_lora(self.trained, config.train.lora_rank, config.train.seed)
        self.averaged: nn.Module | None = None
        self.denoising = DenoisingLoss()
        self.last_hint: Tensor | None = None
        self.last_batch: tuple[int, int, int] | None = None
        self.mirror = Mirror(config.data.flip)
        self.is_fast = self.is_sharded = False
        if config.train.channels_last:
            self.to(memory_format=torch.channels_last)
        if config.train.gradient_checkpointing:
            for network in self.networks:
                network.enable_gradient_checkpointing()

    @property
    def networks(self) -> list[Any]:
        """The UNet, and the FIM where there is one."""
        return [network for network in (self.base.unet, self.injection) if network is not None]

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """What changes time and memory of a run on this device, but neither method nor export."""
        if self.is_fast:
            return
        self.is_fast = True
        train = self.config.train
        dtype = COMPUTED_IN[train.precision]
        self.base.store_frozen(dtype)
        if self.injection is not None:
            store_frozen(self.injection, dtype)
        if wants_xformers(train.attention, self.trainer.strategy.root_device, dtype):
            use_xformers(self.networks)
        if train.compile:
            compile_blocks(self.networks)

    def configure_model(self) -> None:
        """With FSDP2 leave this rank its share of UNet and FIM, of what is frozen too."""
        if self.config.train.strategy is Strategy.fsdp2 and not self.is_sharded:
            self.is_sharded = True
            mesh = self.device_mesh
            assert mesh is not None
            averages = [] if self.averaged is None else [self.averaged]
            for network in [*self.networks, *averages]:
                dtype = COMPUTED_IN[self.config.train.precision]
                if isinstance(network, ControlNetModel):
                    take_first_embedder(network, self.trainer.strategy.broadcast)
                shard_network(network, mesh["data_parallel"], dtype)

    @property
    def schedule(self) -> Schedule:
        """The base's forward process, on this module's device."""
        return Schedule(self.alphas_cumprod, self.prediction)

    def _select_trained(self) -> nn.Module:
        match self.config.train.trainable:
            case Trainable.fim if self.injection is not None:
                return self.injection
            case Trainable.unet:
                if self.injection is not None:
                    self.injection.requires_grad_(False).eval()
                return self.base.unet.requires_grad_(True).train()
            case Trainable.cross_attention_kv:
                return train_concepts(self.base, self.config.train.modifier_tokens)
        raise ConfigError(
            "train.trainable=fim needs train.injection=fim; "
            "set train.trainable=unet to train the base without a foreground"
        )

    def training_step(self, batch: AnyDeviceBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        losses = self.sample_losses(batch, self.config.train.seed)
        weight = self.config.loss.prior_weight
        if weight is not None:
            mixed = sum(self.config.data.mix.values())
            losses = prior_preserving(losses, batch["data_set"], weight, mixed)
        return losses.mean()

    def sample_losses(self, batch: AnyDeviceBatch, seed: int) -> Tensor:
        """The method: the loss of every sample, B. Random draws are functions of (seed, slot)."""
        slots = batch["counter"]
        with torch.no_grad():
            latents = self.scene_latents(batch, seed)  # B c h w
        text = self.base.text(batch["prompt"])  # with a graph where it has trained words
        noise = self.draw_noise(latents, slots, seed)  # B c h w
        steps = self.draw_steps(slots, seed)  # B
        noisy = self.schedule.add_noise(latents, noise, steps)  # B c h w
        conditions = text.network_arguments(self.sizes(batch))
        residuals = self.inject(noisy, steps, conditions, batch["hint"])
        prediction = self.base.predict(noisy, steps, **conditions, **residuals)  # B c h w
        target = self.schedule.target(latents, noise, steps)
        return denoising_loss(
            prediction, target, batch["mask"], steps, self.schedule, self.config.loss
        )

    def draw_noise(self, latents: Tensor, slots: Tensor, seed: int) -> Tensor:
        """Noise of the latents' shape, B c h w."""
        noise = normal(seed, slots, Stream.noise, tuple(latents.shape[1:]))
        strength = self.config.loss.offset_noise
        if strength == 0:
            return noise
        return offset_noise(noise, normal(seed, slots, Stream.offset, (noise.shape[1],)), strength)

    def draw_steps(self, slots: Tensor, seed: int) -> Tensor:
        """Timesteps, uniform, B int64."""
        return (uniform(seed, slots, Stream.timestep) * self.schedule.steps).long()

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
        """The loss at noise and timesteps that are the same at every validation; and again with
        each sample shown the hint of the one before."""
        seed = self.config.train.seed + VALIDATION_SEED_OFFSET
        losses = self.sample_losses(batch, seed)
        position = self.draw_steps(batch["counter"], seed) / self.schedule.steps
        swapped = None
        before = self.hint_before(batch["hint"])
        if self.injection is not None and before is not None:
            others: Any = {**batch, "hint": torch.cat([before, batch["hint"][:-1]])}
            swapped = self.sample_losses(others, seed)
        self.denoising.update(losses, position, swapped)

    def hint_before(self, hint: Tensor) -> Tensor | None:
        """The hint, 1 5 H W, of the sample before those of this batch, or its last one in a circle;
        None where there is no other."""
        before, self.last_hint = self.last_hint, hint[-1:]
        if before is not None and before.shape == hint[-1:].shape:
            return before
        return hint[-1:] if len(hint) > 1 else None

    def on_validation_epoch_end(self) -> None:
        self.record({f"val/{name}": value for name, value in self.denoising.compute().items()})
        self.denoising.reset()
        self.last_hint = None

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
        shown = to_device_batch(batch, self.device, augment=self.config.data, seed=seed)
        samples, _, *size = shown["mask"].shape
        self.last_batch = (samples, size[0], size[1])
        share = self.config.train.foreground_dropout
        shown["hint"] = drop_hints(shown["hint"], shown["counter"], share, seed)
        return shown

    def configure_optimizers(self) -> Any:
        schedule = self.learning_rate_factor
        optimizer = build_optimizer(self.config.train, trained_parameters(self.trained))
        steps = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return [optimizer], [{"scheduler": steps, "interval": "step"}]

    def configure_gradient_clipping(self, *_args: Any, **_kwargs: Any) -> None:
        """The callback `Gradients` clips, with the norm by which it tells a sound step."""

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
        if self.injection is not None:
            parts["controlnet"] = self.injection
            parts["empty_hint"] = self.config.train.foreground_dropout > 0
        if isinstance(trained, Base):
            parts |= trained.components()
        else:
            parts["controlnet" if self.trained is self.injection else "unet"] = trained
        pipeline = AnyScenePipeline(**parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    # A checkpoint holds what is trained, never frozen weights.
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        return {f"trained.{name}": value for name, value in trained_state(self.trained).items()}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:  # noqa: ARG002
        own = {name.removeprefix("trained."): value for name, value in state_dict.items()}
        return load_named(self.trained, trained_names(self.trained), own)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["base_sha256"] = self.base_sha256
        checkpoint["fixed"] = fixed_values(self.config, self.injection, self.fim_sha256)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises `ConfigError` where this run could not go on as the checkpoint's run would."""
        fixed = fixed_values(self.config, self.injection, self.fim_sha256)
        check_resume(checkpoint, fixed, self.config.base.path, self.base_sha256)
        use_new_rates(checkpoint, self.config.train, self.learning_rate_factor)
