"""Layout control while sampling: keeps the elements' place and shape. Off by default."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LayoutControl:
    """Strengths of the mechanisms; all zero is exactly the plain model.

    `known_latent`: share of the sampling steps, from the first, in which the latents under the
    eroded mask are replaced by the noised latents of the foreground (Avrahami et al. 2022,
    blended diffusion; Lugmayr et al. 2022, RePaint). [0, 1]; 0 is off.
    """

    known_latent: float = 0.0


def keep_mask(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    """1 for latents that lie wholly inside the mask, B 1 h w, by min-pooling alpha B 1 H W."""
    return (-F.adaptive_max_pool2d(-alpha, size) > 0.5).to(alpha.dtype)


def keep_known_latents(latents: Tensor, noised: Tensor, keep: Tensor) -> Tensor:
    """`latents` with the known ones, noised to the same step, where `keep` is 1. All B c h w."""
    return torch.where(keep > 0.5, noised, latents)
