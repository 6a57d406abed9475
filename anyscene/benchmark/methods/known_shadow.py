"""The known latent of the element *and its true shadow*: a rival that is told the answer.

As `blended_latent`, but what is kept is the real scene's latent under a mask that covers the
elements and the shadow that they cast. It shows how far a training-free method gets when the
light's trace is given to it, so it bounds such methods from above. Procedural scenes only.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyscene.benchmark.methods.base import (
    Pngs,
    SceneJob,
    foregrounds,
    pasted,
    pngs,
    with_foreground,
)
from anyscene.benchmark.methods.blended_latent import BlendedLatent
from anyscene.errors import InputError
from anyscene.image_jobs import Foreground
from anyscene.metrics.fidelity import dilate, pixels_at
from anyscene.metrics.truth import decode_map

SEEN = 0.1  # of a full shadow: from here on it belongs to the mask
MARGIN = 2  # px of a 64 px scene around both, so that whole latents lie inside


class KnownShadow(BlendedLatent):
    """`blended_latent` on the real scene, under elements and shadow; the elements are blended."""

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        shown = [with_foreground(job, _with_shadow(job)) for job in jobs]
        raw = torch.stack([_pixels(made) for _, made in super().make(shown)])
        rgb, alpha = foregrounds(jobs, "cpu")
        return pngs(pasted(raw, rgb, alpha), raw)


def _with_shadow(job: SceneJob) -> Foreground:
    """The real scene's colours, and 1 where an element or its shadow is."""
    scene = job.scene
    if scene["truth"] is None or scene["real"] is None:
        raise InputError(f"known_shadow: the true shadow of scene {scene['scene_id']} is not known")
    with Image.open(job.folder / scene["real"]) as file:
        real = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1).float() / 255
    shadow = decode_map(scene["truth"]["shadow"])[None]
    if real.shape[1:] != job.own.rgb.shape[1:]:
        raise InputError(
            f"known_shadow: scene {scene['scene_id']} is {tuple(real.shape[1:])} and the model's "
            f"image {tuple(job.own.rgb.shape[1:])}; use a benchmark of the model's size"
        )
    side = min(shadow.shape[-2:])
    covered = (shadow > SEEN) | (job.own.alpha > 0.5)
    return Foreground(real, dilate(covered[None], pixels_at(side, MARGIN))[0].float())


def _pixels(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1).float() / 255
