"""ControlNet (Zhang et al., 2023) on Canny edges of the composited foreground."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import ControlNetModel

from anyscene.benchmark.methods.base import (
    PLAIN,
    MethodSettings,
    Pngs,
    SceneJob,
    foregrounds,
    on_grey,
    padded,
    pngs,
    stock,
    stock_call,
)
from anyscene.compositing.canny import canny_edges
from anyscene.config_method import Hint
from anyscene.errors import InputError
from anyscene.image_jobs import CAST, Model
from anyscene.models.base import weights_sha256
from anyscene.models.injection import check_same_base, hint_kind
from anyscene.models.loading import load_weights


class ControlNetCanny:
    """Diffusers' `StableDiffusionControlNetPipeline`, or SDXL's."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:
        self.model = model
        if settings.controlnet is None:
            raise InputError("controlnet_canny needs --controlnet, a ControlNet of canny edges")
        net = load_controlnet(settings.controlnet)
        check_same_base(net, model.pipeline.unet, f"--controlnet {settings.controlnet}")
        names = ("unet", "vae", "text_encoder", "text_encoder_2")
        parts = [part for name in names if (part := getattr(model.pipeline, name)) is not None]
        self.sha256 = weights_sha256(net, *parts)
        net = CAST[model.dtype](net.eval()).to(model.device)
        self.pipeline = stock(model, controlnet=net)

    def fields(self) -> dict[str, Any]:
        return PLAIN | {"model_sha256": self.sha256}

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        full = padded(jobs)
        edges = canny_edges(on_grey(*foregrounds(full, self.model.device)))
        images = self.pipeline(**stock_call(self.model, full), image=edges).images[: len(jobs)]
        return pngs(images, images)


def load_controlnet(path: Path) -> ControlNetModel:
    """A ControlNet of edges in float32: its folder, or an export of ours that has `controlnet/`.

    Raises:
        InputError: nothing there, incomplete, or it takes something else than edges.
    """
    folder = path / "controlnet" if (path / "controlnet").is_dir() else path
    net = load_weights(ControlNetModel, str(folder), "--controlnet")
    if hint_kind(net) is not Hint.canny:
        raise InputError(
            f"--controlnet {path} takes {net.config['conditioning_channels']} channels; one of "
            "canny edges takes 3"
        )
    return net
