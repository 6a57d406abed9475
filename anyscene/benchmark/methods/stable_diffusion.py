"""Stable Diffusion, or SDXL: the text alone. The elements are nowhere in it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anyscene.benchmark.methods.base import (
    PLAIN,
    MethodSettings,
    Pngs,
    SceneJob,
    padded,
    pngs,
    stock,
    stock_call,
)
from anyscene.image_jobs import Model


class StableDiffusion:
    """Diffusers' `StableDiffusionPipeline` or `StableDiffusionXLPipeline`."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:  # noqa: ARG002
        self.model, self.pipeline = model, stock(model)

    def fields(self) -> dict[str, Any]:
        return PLAIN

    def images(self, jobs: Sequence[SceneJob]) -> Tensor:
        """Images B 3 H W in [0, 1] of the jobs."""
        call = stock_call(self.model, padded(jobs))
        return self.pipeline(**call).images[: len(jobs)]

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        images = self.images(jobs)
        return pngs(images, images)
