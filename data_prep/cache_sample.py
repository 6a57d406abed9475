"""One sample -> its cached form: the latent's moments, and of the scene what the hint needs."""

import cv2
import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from anyscene.data.transforms import Sample, to_floats
from anyscene.errors import InputError
from anyscene.models.base import Vae, encode_moments
from data_prep.images import encode_scene

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
MARGIN = 4  # pixels of the scene that stay around the mask: `data.mask_jitter` is at most 2
BLOCK = 8  # pixels: side of a JPEG's blocks
GREY = 128
KEPT = ("mask.png", "elements.png", "meta.json")

Members = dict[str, bytes]  # by suffix


@torch.no_grad()
def encode_scenes(vae: Vae, scenes: list[NDArray[np.uint8]], batch_size: int) -> list[Tensor]:
    """Mean and deviation of each scene's posterior, float32 2 c h w on the CPU.

    The first stage always sees `batch_size` scenes, the last one repeated, so that a scene's
    moments do not depend on its neighbours. `scenes` are 1 to `batch_size` of one size, H W 3.
    """
    padded = scenes + [scenes[-1]] * (batch_size - len(scenes))
    pixels = torch.from_numpy(np.stack(padded)).permute(0, 3, 1, 2)  # B 3 H W
    moments = encode_moments(vae, to_floats(pixels, vae.device) * 2 - 1)
    return list(torch.stack(moments, dim=1).float().cpu()[: len(scenes)])


def cached_members(sample: Sample, members: Members, moments: Tensor, dtype: str) -> Members:
    """The members of a cached sample, given those of its scene and its moments 2 c h w.

    Raises `InputError` where `dtype` is too narrow for the moments.
    """
    mean, std = moments.to(DTYPES[dtype])
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise InputError(f"--dtype {dtype} is too narrow for the latents of {sample.key}; use fp32")
    foreground = np.ascontiguousarray(cut_out(sample.image, sample.mask)[..., ::-1])
    lossless = "scene.png" in members
    return {
        "latents.safetensors": safetensors.torch.save({"mean": mean, "std": std}),
        f"foreground.{'png' if lossless else 'jpg'}": encode_scene(foreground, lossless=lossless),
        **{suffix: members[suffix] for suffix in KEPT},
    }


def cut_out(scene: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The scene H W 3 in all blocks of a JPEG that come within `MARGIN` of the mask, else grey.

    Whole blocks: coded again as the scene was, they change little, and no grey bleeds into them.
    """
    height, width = mask.shape
    near = cv2.dilate(mask, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)) > 0
    padded = np.pad(near, ((0, -height % BLOCK), (0, -width % BLOCK)))
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    blocks = padded.reshape(rows, BLOCK, columns, BLOCK).any(axis=(1, 3))
    kept = blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width]
    return np.where(kept[..., None], scene, np.uint8(GREY))
