"""Held-out scenes with their own cut-outs as foreground: what evaluations and ablations sample."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anyscene.data.sample import ShardManifest
from anyscene.data.shards import read_batches
from anyscene.errors import InputError
from anyscene.metrics.truth import Truth


@dataclass(frozen=True)
class Scenes:
    """N held-out scenes: `scene` N 3 H W and `alpha` N 1 H W in [0, 1], prompts, truths, seeds."""

    scene: Tensor
    alpha: Tensor
    prompts: list[str]
    truths: list[Truth | None]
    seeds: list[int]
    foreground: Tensor  # N 3 H W in [0, 1], what the model is shown


def read_held_out(shards: Path, samples: int, seed: int) -> Scenes:
    """The first scenes of a shard folder, with their own cut-outs as foreground.

    Raises `InputError` where they are not of one size.
    """
    batches = read_batches(ShardManifest.read(shards), samples)
    sizes = sorted({f"{h}x{w}" for *_, h, w in (batch["mask_uint8"].shape for batch in batches)})
    if len(sizes) > 1:
        raise InputError(
            f"the scenes of {shards} are of several sizes ({', '.join(sizes)}): prepare held-out "
            "scenes of one size"
        )
    scene = torch.cat([batch["scene_uint8"] for batch in batches]).contiguous().float() / 255
    numbers = torch.cat([batch["counter"] for batch in batches]).tolist()
    return Scenes(
        scene=scene,
        alpha=torch.cat([batch["mask_uint8"] for batch in batches]).float() / 255,
        prompts=[prompt for batch in batches for prompt in batch["prompt"]],
        truths=[truth for batch in batches for truth in batch["truth"]],
        seeds=[seed + number for number in numbers],
        foreground=scene,
    )
