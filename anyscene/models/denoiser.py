"""The base and its FIM under both guidances: one prediction a step of sampling."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from anyscene.diffusion.guidance import combine
from anyscene.layout_settings import acts
from anyscene.models.layout_control import LayoutPlan
from anyscene.models.text import TextCondition, join_texts


@dataclass(frozen=True)
class Conditions:
    """What guides the sampling of B images."""

    full: TextCondition  # the prompts
    empty: TextCondition  # the negative prompts
    sizes: Tensor | None  # B 6, see `micro_condition`; None but for SDXL
    control: Tensor | None  # the FIM's input, B C H W; None without a foreground
    empty_control: Tensor | None  # that of the empty hint; None: e0 is the base without the FIM
    s_text: float
    s_foreground: float
    rescale: float  # of the guided prediction to the spread of `full`'s, [0, 1]
    fim_scale: float
    fim_span: tuple[float, float]  # shares of the steps between which the FIM acts
    layout: LayoutPlan | None = None

    def fim_scale_at(self, step: int, steps: int) -> float:
        """The factor of the FIM's residuals in a step, as diffusers' control guidance has it."""
        return self.fim_scale if acts(self.fim_span, step, steps) else 0.0

    def layout_acts(self, mechanism: str, step: int, steps: int) -> bool:
        """Whether a mechanism of layout control is on in a step."""
        return self.layout is not None and self.layout.acts(mechanism, step, steps)


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
        self.gate = False  # the FIM's residuals by region, in the step that is being made

    def __call__(self, latents: Tensor, timestep: Tensor, step: int, steps: int) -> Tensor:
        """The prediction for B c h w under both guidances, in step 0, 1, ... of `steps`.

        Unneeded passes are left out. The pass without foreground is without layout control, too.
        """
        c = self.conditions
        fim_scale = c.fim_scale_at(step, steps)
        self.gate = c.layout_acts("residual_gate", step, steps)
        self._bias(c.layout_acts("attention", step, steps))
        if c.s_text <= 1 and c.s_foreground == 1:
            return self._predict(latents, timestep, [c.full], c.control, fim_scale)[0]
        both = [c.empty, c.full]
        foreground, full = self._predict(latents, timestep, both, c.control, fim_scale)
        base = None
        if c.s_foreground != 1:
            self._bias(False)
            self.gate = False
            base = self._predict(latents, timestep, [c.empty], c.empty_control, fim_scale)[0]
        guided = combine(base, foreground, full, c.s_foreground, max(c.s_text, 1.0))
        return rescale_noise_cfg(guided, full, c.rescale) if c.rescale > 0 else guided

    def _bias(self, on: bool) -> None:
        if self.conditions.layout is not None:
            self.conditions.layout.bias.active = on

    def _predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        texts: list[TextCondition],
        control: Tensor | None,  # None: without the FIM
        fim_scale: float,
    ) -> tuple[Tensor, ...]:
        """One prediction B c h w for each text, in one batch."""
        n = len(texts)
        c = self.conditions
        model_input = torch.cat([latents] * n)
        sizes = None if c.sizes is None else torch.cat([c.sizes] * n)
        arguments = join_texts(texts).network_arguments(sizes)
        residuals: dict[str, Any] = {}
        if self.fim is not None and control is not None:
            down, mid = self.fim(
                model_input,
                timestep,
                controlnet_cond=torch.cat([control] * n),
                conditioning_scale=fim_scale,
                return_dict=False,
                **arguments,
            )
            if self.gate and c.layout is not None:
                down, mid = [c.layout.gated(own) for own in down], c.layout.gated(mid)
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": mid,
            }
        output = self.unet(model_input, timestep, return_dict=False, **arguments, **residuals)
        return output[0].to(latents.dtype).chunk(n)  # float32 under autocast
