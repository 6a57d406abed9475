"""ControlNet (Zhang et al., 2023) on Canny edges of the composited foreground."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import ControlNetModel
from torch import Tensor

from anyscene.benchmark.methods.base import (
    PLAIN,
    MethodSettings,
    Pngs,
    SceneJob,
    foregrounds,
    padded,
    pngs,
    stock,
    stock_call,
)
from anyscene.compositing.hint import BACKGROUND_GREY
from anyscene.errors import InputError
from anyscene.image_jobs import CAST, Model
from anyscene.models.base import weights_sha256

LOW, HIGH = 100, 200  # of the gradient, the thresholds of ControlNet's own examples


def canny_edges(rgb: Tensor, alpha: Tensor) -> Tensor:
    """White edges on black, B 3 H W in {0, 1}, of foregrounds on grey.

    rgb: B 3 H W in [0, 1]; alpha: B 1 H W. Canny's detector as OpenCV has it, on grey levels.
    """
    on_grey = rgb * alpha + BACKGROUND_GREY * (1 - alpha)
    pixels = (on_grey * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in pixels]
    edges = np.stack([cv2.Canny(image, LOW, HIGH) for image in grey])
    return (torch.from_numpy(edges).float() / 255)[:, None].expand(-1, 3, -1, -1)


class ControlNetCanny:
    """Diffusers' `StableDiffusionControlNetPipeline`, or SDXL's."""

    def __init__(self, model: Model, settings: MethodSettings) -> None:
        self.model = model
        if settings.controlnet is None:
            raise InputError("controlnet_canny needs --controlnet, a ControlNet of canny edges")
        try:
            net: Any = ControlNetModel.from_pretrained(settings.controlnet, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"--controlnet {settings.controlnet}: {reason}") from None
        if net.config.conditioning_channels != 3:
            raise InputError(
                f"--controlnet {settings.controlnet} takes {net.config.conditioning_channels} "
                "channels; one of canny edges takes 3"
            )
        self.sha256 = weights_sha256(net, *_weights(model))
        net = CAST[model.dtype](net.eval()).to(model.device)
        self.pipeline = stock(model, controlnet=net)

    def fields(self) -> dict[str, Any]:
        return PLAIN | {"model_sha256": self.sha256}

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        full = padded(jobs)
        edges = canny_edges(*foregrounds(full, "cpu")).to(self.model.device)
        images = self.pipeline(**stock_call(self.model, full), image=edges).images[: len(jobs)]
        return pngs(images, images)


def _weights(model: Model) -> list[Any]:
    names = ("unet", "vae", "text_encoder", "text_encoder_2")
    return [part for name in names if (part := getattr(model.pipeline, name)) is not None]
