"""Paste: the elements' own pixels on the text-only image. Perfect in them, blind to the scene."""

from collections.abc import Sequence
from typing import Any

from anyscene.benchmark.methods.base import ALPHA, Pngs, SceneJob, foregrounds, pasted, pngs
from anyscene.benchmark.methods.stable_diffusion import StableDiffusion


class Paste(StableDiffusion):
    """Alpha blending of the foreground on what `stable_diffusion` makes; raw is that image."""

    def fields(self) -> dict[str, Any]:
        return ALPHA

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        images = self.images(jobs)
        return pngs(pasted(images, *foregrounds(jobs, self.model.device)), images)
