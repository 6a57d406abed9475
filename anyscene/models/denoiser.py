"""The base and its FIM under both guidances: one prediction a step of sampling."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from anyscene.diffusion.guidance import combine
from anyscene.errors import InputError
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

    @property
    def guided(self) -> bool:
        """Whether a step needs predictions with the negative prompts, too."""
        return self.s_text > 1 or self.s_foreground != 1

    def tensors(self) -> dict[str, Tensor]:
        """What a callback may ask for and give back, by the names of diffusers' pipelines.

        Under guidance the rows of the negative prompts come before those of the prompts, B each.
        """
        texts = [self.empty, self.full] if self.guided else [self.full]
        text = join_texts(texts)
        found = {"prompt_embeds": text.hidden}
        if text.pooled is not None and self.sizes is not None:
            found["add_text_embeds"] = text.pooled
            found["add_time_ids"] = torch.cat([self.sizes] * len(texts))
        if self.control is not None:
            found["image"] = torch.cat([self.control] * len(texts))
        return found

    def with_changes(self, changes: Mapping[str, Tensor], s_text: float) -> "Conditions":
        """With what a callback gave back of `tensors`, and with its text guidance.

        B rows, which a callback that ends guidance leaves, are those of the prompts; the negative
        ones then stay. Raises `InputError` for another number of rows.
        """
        count = len(self.full.hidden)
        tensors = {**self.tensors(), **changes}
        for name, rows in tensors.items():
            if len(rows) not in (count, 2 * count):
                raise InputError(
                    f"the callback gave {name} of shape {tuple(rows.shape)} back: it must have "
                    f"{count} rows, or {2 * count} with those of the negative prompts first"
                )
        hidden, pooled = tensors["prompt_embeds"], tensors.get("add_text_embeds")
        full, empty = (
            TextCondition(hidden[part], None if pooled is None else pooled[part])
            for part in (slice(-count, None), slice(None, count))
        )
        both = len(hidden) == 2 * count and (pooled is None or len(pooled) == 2 * count)
        sizes, control = (tensors.get(name) for name in ("add_time_ids", "image"))
        return replace(
            self,
            s_text=s_text,
            full=full,
            empty=empty if both else self.empty,
            sizes=None if sizes is None else sizes[-count:],
            control=None if control is None else control[-count:],
        )

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
        if not c.guided:
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
        if self.fim is not None and control is not None and fim_scale != 0:
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
