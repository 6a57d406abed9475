"""The base and its FIM under both guidances: one prediction a step of sampling."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from anyscene.diffusion.guidance import combine
from anyscene.models.text import TextCondition, join_texts


@dataclass(frozen=True)
class Conditions:
    """What guides the sampling of B images."""

    full: TextCondition  # the prompts
    empty: TextCondition  # the negative prompts
    sizes: Tensor | None  # B 6, see `micro_condition`; None but for SDXL
    control: Tensor | None  # the FIM's input, B C H W; None without a foreground
    s_text: float
    s_foreground: float
    rescale: float  # of the guided prediction to the spread of `full`'s, [0, 1]
    fim_scale: float
    fim_span: tuple[float, float]  # shares of the steps between which the FIM acts

    def fim_scale_at(self, step: int, steps: int) -> float:
        """The factor of the FIM's residuals in a step, as diffusers' control guidance has it."""
        start, end = self.fim_span
        acts = step / steps >= start and (step + 1) / steps <= end
        return self.fim_scale if acts else 0.0


class Denoiser:
    """The guided prediction of a UNet, and of a FIM where there is one."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        fim: ControlNetModel | None,
        conditions: Conditions,
    ) -> None:
        self.unet = unet
        self.fim = fim
        self.conditions = conditions

    def __call__(self, latents: Tensor, timestep: Tensor, fim_scale: float) -> Tensor:
        """The prediction for B c h w under both guidances. Unneeded passes are left out."""
        c = self.conditions
        if c.s_text <= 1 and c.s_foreground == 1:
            return self._predict(latents, timestep, [c.full], fim_scale)[0]
        foreground, full = self._predict(latents, timestep, [c.empty, c.full], fim_scale)
        base = None
        if c.s_foreground != 1:
            base = self._predict(latents, timestep, [c.empty], None)[0]
        guided = combine(base, foreground, full, c.s_foreground, max(c.s_text, 1.0))
        return rescale_noise_cfg(guided, full, c.rescale) if c.rescale > 0 else guided

    def _predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        texts: list[TextCondition],
        fim_scale: float | None,  # None: without the FIM
    ) -> tuple[Tensor, ...]:
        """One prediction B c h w for each text, in one batch."""
        n = len(texts)
        c = self.conditions
        model_input = torch.cat([latents] * n)
        sizes = None if c.sizes is None else torch.cat([c.sizes] * n)
        arguments = join_texts(texts).network_arguments(sizes)
        residuals: dict[str, Any] = {}
        if self.fim is not None and c.control is not None and fim_scale is not None:
            down, mid = self.fim(
                model_input,
                timestep,
                controlnet_cond=torch.cat([c.control] * n),
                conditioning_scale=fim_scale,
                return_dict=False,
                **arguments,
            )
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": mid,
            }
        output = self.unet(model_input, timestep, return_dict=False, **arguments, **residuals)
        return output[0].to(latents.dtype).chunk(n)  # float32 under autocast
