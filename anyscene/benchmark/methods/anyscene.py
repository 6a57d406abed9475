"""AnyScene: the frozen base guided by the Foreground Injection Module, blended as exported."""

from collections.abc import Sequence
from typing import Any

from anyscene.benchmark.methods.base import MethodSettings, Pngs, SceneJob
from anyscene.config import Blend
from anyscene.errors import InputError
from anyscene.image_jobs import Model, make_images
from anyscene.layout_settings import layout_record


class AnyScene:
    """`anyscene generate` itself, by its own path."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:
        if not model.guided:
            raise InputError(
                f"{model.path} has no Foreground Injection Module (controlnet/): give an export of "
                "one to --method anyscene"
            )
        self.model, self.sample = model, settings.sample

    def fields(self) -> dict[str, Any]:
        blend = {"mode": self.sample.blend.name, "k": float(self.sample.blend_k)}
        return {
            "foreground_guidance_scale": float(self.sample.foreground_guidance_scale),
            "layout": layout_record(self.sample.layout),
            "blend": None if self.sample.blend is Blend.none else blend,
        }

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        return make_images(self.model, jobs)
