"""Inpaint Anything's "replace anything" (Yu et al., 2023): Stable Diffusion inpaints all around.

The element is kept, everything else is filled by the text, and the element's pixels are put back.
The mask is the benchmark's; or, with a SAM model, what SAM finds from each element's box, as in
Inpaint Anything itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline
from torch import Tensor

from anyscene.benchmark.methods.base import (
    ALPHA,
    MethodSettings,
    Pngs,
    SceneJob,
    base_parts,
    foregrounds,
    on_grey,
    padded,
    pasted,
    pngs,
    stock_call,
)
from anyscene.benchmark.methods.sam import SamMasks
from anyscene.image_jobs import Model
from anyscene.models.base import encode_images

STOCK_CHANNELS = (4, 9)  # of the UNet: a plain base, or one made for inpainting


class InpaintAnything:
    """Diffusers' inpainting pipelines; for bases of other latents than theirs, the same in ours."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:
        self.model = model
        self.sam = None if settings.sam is None else SamMasks(settings.sam, model.device)
        self.pipeline = _stock_inpainting(model)

    def fields(self) -> dict[str, Any]:
        return ALPHA

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        if self.sam is not None:
            jobs = [self.sam.cut_out(job) for job in jobs]
        full = padded(jobs)
        rgb, alpha = foregrounds(full, self.model.device)
        raw = self.inpaint(full, rgb, alpha)[: len(jobs)]
        return pngs(pasted(raw, rgb[: len(jobs)], alpha[: len(jobs)]), raw)

    def inpaint(self, jobs: Sequence[SceneJob], rgb: Tensor, alpha: Tensor) -> Tensor:
        """Images B 3 H W in [0, 1] before the elements are put back."""
        shown = on_grey(rgb, alpha)
        if self.pipeline is None:
            return four_channel_inpainting(self.model, jobs, shown, alpha)
        call = stock_call(self.model, jobs)
        fill = 1 - (alpha > 0.5).float()
        return self.pipeline(**call, image=shown, mask_image=fill, strength=1.0).images


def _stock_inpainting(model: Model) -> Any:
    """Diffusers' pipeline; None for a base whose latents have another number of channels."""
    if model.pipeline.unet.config.in_channels not in STOCK_CHANNELS:
        return None
    if model.pipeline.text_encoder_2 is not None:
        pipeline = StableDiffusionXLInpaintPipeline(**base_parts(model), add_watermarker=False)
    else:
        pipeline = StableDiffusionInpaintPipeline(
            **base_parts(model),
            safety_checker=None,  # pyright: ignore[reportArgumentType] - diffusers allows it
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def four_channel_inpainting(
    model: Model, jobs: Sequence[SceneJob], image: Tensor, alpha: Tensor
) -> Tensor:
    """What `StableDiffusionInpaintPipeline` does on a plain base, B 3 H W in [0, 1].

    After each step the latents to be kept are those of `image`, noised to the next step, and in the
    end clean ones. Kept is where the mask, reduced by nearest neighbour as there, is 1. The one
    difference: the first stage's mean is taken, not a draw.
    """
    pipeline, line = model.pipeline, jobs[0].line
    call = stock_call(model, jobs)
    noise = torch.as_tensor(call["latents"])
    known = encode_images(pipeline.vae, image * 2 - 1).to(noise.dtype)
    keep = torch.nn.functional.interpolate((alpha > 0.5).to(noise), size=noise.shape[2:])

    def put_back(_: Any, index: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        timesteps = pipeline.scheduler.timesteps
        proper = known
        if index + 1 < len(timesteps):
            proper = pipeline.scheduler.add_noise(known, noise, timesteps[index + 1].reshape(1))
        return {"latents": keep * proper + (1 - keep) * values["latents"]}

    output = pipeline(
        [job.line["prompt"] for job in jobs],
        negative_prompt=line["negative_prompt"] or None,
        height=line["height"],
        width=line["width"],
        num_inference_steps=line["steps"],
        guidance_scale=line["guidance_scale"],
        latents=noise,
        generator=call["generator"],
        output_type="pt",
        callback_on_step_end=put_back,
    )
    return torch.as_tensor(output.images)
