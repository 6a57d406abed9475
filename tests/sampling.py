"""What the tests of sampling share: a FIM that does something, foregrounds, generators."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor

from anyscene.config_method import FimConfig
from anyscene.models.base import Base
from anyscene.models.injection import build_fim

PROMPTS = ["a red mug on a meadow", "warm light from the left"]
STOCHASTIC = "DDPMScheduler"
"""A scheduler that draws noise in each step."""


def moved_fim(base: Base, **config: Any) -> ControlNetModel:
    """A FIM whose zero layers have moved, so that it does something."""
    fim = build_fim(FimConfig(**config), base, seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    for layer in [*fim.controlnet_down_blocks, fim.controlnet_mid_block]:
        layer.weight += 0.3 * torch.randn(layer.weight.shape, generator=generator)
    return fim


def quiet(pipeline: Any) -> Any:
    """The pipeline without a progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def foregrounds(batch: int = 2, height: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    """Coarse colours B 3 H W, and a rectangular mask B 1 H W."""
    generator = torch.Generator().manual_seed(1)
    rgb = torch.rand(batch, 3, 4, 4, generator=generator)
    mask = torch.zeros(batch, 1, height, width)
    mask[..., height // 8 : height // 2, width // 4 : -width // 4] = 1
    return F.interpolate(rgb, (height, width)), mask


def generators(count: int = 2, first: int = 10) -> list[torch.Generator]:
    """One an image, with seeds from `first` on."""
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def one_step(pipeline, *prompts, foreground=True, **options):
    """The latents after one DDIM step from the same noise."""
    seen = []

    def note(_pipeline, _index, _timestep, values):
        seen.append(values["latents"])
        return {}

    rgb, mask = foregrounds(len(prompts)) if foreground else (None, None)
    noise = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(2))
    options |= {"num_inference_steps": 3, "output_type": "pt", "latents": noise}
    pipeline(list(prompts), rgb, mask, callback_on_step_end=note, **options)
    return seen[0]
