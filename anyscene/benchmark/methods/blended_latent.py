"""Blended latent diffusion (Avrahami et al., 2023), training-free, turned to the background.

Before every step the latents under the element are replaced by the foreground's, noised to that
step; what is around it is sampled from the text. At the end the pixels are blended. In the paper
the mask marks what is generated; here it is what is kept.
"""

from collections.abc import Sequence
from typing import Any

import torch

from anyscene.benchmark.methods.base import (
    ALPHA,
    MethodSettings,
    Pngs,
    SceneJob,
    foregrounds,
    padded,
    pngs,
)
from anyscene.config import Blend
from anyscene.image_jobs import Model
from anyscene.layout_settings import LayoutControl, layout_record

LAYOUT = LayoutControl(known_latent=1.0, known_latent_end=1.0)  # wholly, in all steps


class BlendedLatent:
    """Our own sampler with the known latent, without the FIM: diffusers has no pipeline of it."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:  # noqa: ARG002
        self.model = model

    def fields(self) -> dict[str, Any]:
        return ALPHA | {"layout": layout_record(LAYOUT)}

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        full = padded(jobs)
        line = full[0].line
        rgb, alpha = foregrounds(full, self.model.device)
        output = self.model.pipeline(
            [job.line["prompt"] for job in full],
            foreground=rgb,
            mask=alpha,
            negative_prompt=line["negative_prompt"] or None,
            num_inference_steps=line["steps"],
            guidance_scale=line["guidance_scale"],
            controlnet_conditioning_scale=0.0,
            layout=LAYOUT,
            blend=Blend.alpha,
            generator=[torch.Generator().manual_seed(job.line["seed"]) for job in full],
            output_type="pt",
        )
        images, raw = torch.as_tensor(output.images), torch.as_tensor(output.raw_images)
        return pngs(images[: len(jobs)], raw[: len(jobs)])
