"""A training step on fake tensors, which have shapes and no values: what `cost` counts."""

from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anyscene.compositing.hint import HINT_CHANNELS
from anyscene.config import Config, Injection, Optimizer, Trainable
from anyscene.config_method import Hint
from anyscene.counted_memory import EightBitAdamW
from anyscene.data.cached import has_cached_latents
from anyscene.diffusion.schedule import build_schedule, rescale_to_zero_snr
from anyscene.models.base import Base, store_frozen, vae_factor
from anyscene.models.concepts import train_concepts
from anyscene.models.injection import CANNY_CHANNELS, build_fim, control_condition, hint_kind
from anyscene.models.loading import fake_base
from anyscene.models.lora import add_lora
from anyscene.models.text import micro_condition
from anyscene.models.trained import trained_parameters
from anyscene.precision import COMPUTED_IN


def fake_step(config: Config, size: tuple[int, int] | None, samples: int) -> "Step":
    """The step of the run that `config` describes, in the fake mode that is open."""
    named, train = config.base, config.train
    base = fake_base(named.path, named.revision, named.first_stage)
    if train.zero_terminal_snr:
        base.scheduler = rescale_to_zero_snr(base.scheduler)
    with unset_fake_temporarily():  # it looks at values
        build_schedule(base.scheduler.config)
    fim = build_fim(config.fim, base, 0, False) if train.injection is Injection.fim else None
    side = base.native_size()
    return Step(base, fim, config, size or (side, side), samples)


class Step:
    """The networks of a training step, in the step's order, on a batch without values."""

    def __init__(
        self,
        base: Base,
        fim: ControlNetModel | None,
        config: Config,
        size: tuple[int, int],
        samples: int,
    ) -> None:
        self.base, self.fim, self.size, self.samples = base, fim, size, samples
        train = config.train
        self.dtype = COMPUTED_IN[train.precision]
        self.cached = has_cached_latents(config.data.train)
        self.networks = [network for network in (base.unet, fim) if network is not None]
        on_fim = train.trainable is Trainable.fim and fim is not None
        trained: Any = fim if on_fim else base.unet
        for network in self.networks:
            network.train().requires_grad_(network is trained)
            if train.gradient_checkpointing:
                network.enable_gradient_checkpointing()
        if train.lora_rank:
            add_lora(trained, train.lora_rank, 0)
        if train.trainable is Trainable.cross_attention_kv:
            trained = train_concepts(base, train.modifier_tokens)
        self.trained = trained_parameters(trained)
        base.store_frozen(self.dtype)
        if fim is not None:
            store_frozen(fim, self.dtype)
        eight_bit = train.optimizer is Optimizer.adamw8bit
        adamw = torch.optim.AdamW(self.trained, fused=True)
        self.optimizer = EightBitAdamW(self.trained) if eight_bit else adamw

    @property
    def frozen(self) -> list[Tensor]:
        """Everything without gradients."""
        parts = [part for part in (self.base, self.fim) if part is not None]
        values = [v for part in parts for v in (*part.parameters(), *part.buffers())]
        return [value for value in values if not value.requires_grad]

    def autocast(self) -> torch.autocast:
        """The arithmetic of mixed precision. On fake tensors fp16 costs what bf16 does."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.dtype is not torch.float32)

    def settle(self) -> None:
        """What a first step leaves for the next: gradients and the optimizer's state."""
        for parameter in self.trained:
            parameter.grad = torch.empty_like(parameter)
        self.optimizer.step()

    def run(self) -> None:
        """One step in Lightning's order: a step's gradients live until the next backward pass."""
        with self.autocast():
            with torch.no_grad():
                latents = self.latents()
                text = self.text()
            loss = self.predict(latents, text).float().square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def latents(self) -> Tensor:
        """The scenes' latents B c h w: of the first stage, or of a cache."""
        if not self.cached:
            return self.base.encode(torch.empty(self.samples, 3, *self.size))
        factor = vae_factor(self.base.vae)
        sides = (side // factor for side in self.size)
        return torch.empty(self.samples, self.base.unet.config["in_channels"], *sides)

    def text(self) -> dict[str, Any]:
        """The text side of the networks' arguments."""
        pair = torch.empty(self.samples, 2, dtype=torch.int64)
        sizes = micro_condition(pair, pair, self.size)
        return self.base.text(["a prompt"] * self.samples).network_arguments(sizes)

    def predict(self, noisy: Tensor, text: dict[str, Any]) -> Tensor:
        """The prediction of UNet and FIM for latents B c h w."""
        steps = torch.zeros(self.samples, dtype=torch.int64)
        residuals: dict[str, Any] = {}
        if self.fim is not None:
            condition = self.condition(self.fim)
            down, mid = self.fim(noisy, steps, controlnet_cond=condition, return_dict=False, **text)
            residuals["down_block_additional_residuals"] = down
            residuals["mid_block_additional_residual"] = mid
        return self.base.predict(noisy, steps, **text, **residuals)

    @torch.no_grad()
    def condition(self, fim: ControlNetModel) -> Tensor:
        """What the FIM is shown. Edges are found on the CPU: they cost the device nothing."""
        hint = torch.empty(self.samples, HINT_CHANNELS, *self.size)
        if hint_kind(fim) is Hint.canny:
            return hint[:, :CANNY_CHANNELS]
        return control_condition(fim, self.base.vae, hint)

    def flop(self) -> int:
        """Operations of UNet and FIM, forward and backward, without recomputation.

        Attention is counted as the matrix products that it is, whatever kernel runs it.
        """
        for network in self.networks:
            network.disable_gradient_checkpointing()
        with self.autocast():
            latents, text = self.latents(), self.text()
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                self.predict(latents, text).sum().backward()
        return counter.get_total_flops()
