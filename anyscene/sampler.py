"""Sampling at a fixed micro-batch, so that an image depends on its seed alone."""

from typing import Any

import torch
from torch import Tensor

from anyscene.config import SampleConfig
from anyscene.pipeline import AnySceneOutput, AnyScenePipeline


def sample_options(config: SampleConfig) -> dict[str, Any]:
    """The pipeline's arguments that a configuration sets."""
    return {
        "num_inference_steps": config.steps,
        "guidance_scale": config.guidance_scale,
        "foreground_guidance_scale": config.foreground_guidance_scale,
        "layout": config.layout,
        "blend": config.blend,
        "blend_k": config.blend_k,
    }


def sample_scenes(
    pipeline: AnyScenePipeline,
    prompts: list[str],
    seeds: list[int],
    foreground: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    micro_batch: int,
    **options: Any,
) -> AnySceneOutput:
    """One image a prompt, as tensors B 3 H W in [0, 1], before and after blending.

    Every call of the network has `micro_batch` images; the last one is padded with copies. At a
    fixed shape a network gives each image the same bits whatever its neighbours are.

    Args:
        pipeline: where to sample.
        prompts, seeds: B of them.
        foreground, mask: as in the pipeline, B of them; None for text only.
        micro_batch: images a call.
        options: further arguments of the pipeline.
    """
    blended, raw = [], []
    for first in range(0, len(prompts), micro_batch):
        chosen = list(range(first, min(first + micro_batch, len(prompts))))
        padded = chosen + [chosen[-1]] * (micro_batch - len(chosen))
        output = pipeline(
            [prompts[i] for i in padded],
            foreground=None if foreground is None else foreground[padded],
            mask=None if mask is None else mask[padded],
            generator=[torch.Generator().manual_seed(seeds[i]) for i in padded],
            output_type="pt",
            **options,
        )
        blended.append(output.images[: len(chosen)])
        raw.append(output.raw_images[: len(chosen)])
    return AnySceneOutput(images=torch.cat(blended), raw_images=torch.cat(raw))
