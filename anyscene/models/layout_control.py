"""Layout control while sampling: keeps the elements' place and shape. Off by default.

Three mechanisms, each with a strength and a span of steps (`LayoutControl`), our own design after
the sources cited; the AnyScene paper's formulas are not public here:

- `attention`: background queries are kept off foreground keys, see `layout_attention`, so that
  background does not become more of the element (masked self-attention as in Cao et al. 2023,
  MasaCtrl; an added bias as in Balaji et al. 2022, eDiff-I, section 4.3, there for words);
- `residual_gate`: the FIM's residuals act where foreground is, and less elsewhere;
- `known_latent`: latents under the eroded mask are those of the foreground, noised to the step
  (Avrahami et al. 2022, blended diffusion; Lugmayr et al. 2022, RePaint).

Attention and gate want every latent that any foreground touches: the mask is max-pooled. The known
latent wants those that lie wholly inside: it is min-pooled.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor

from anyscene.layout_settings import LayoutControl, acts
from anyscene.models.layout_attention import AttentionBias, biased_self_attention


@dataclass(frozen=True)
class LayoutPlan:
    """The layout control of a call: what it needs of the foregrounds of B images."""

    control: LayoutControl
    near: dict[tuple[int, int], Tensor]  # B 1 h w by size: alpha max-pooled to each resolution
    keep: Tensor  # B 1 h w, 1 for latents wholly inside
    known: Tensor | None  # the foregrounds' latents B c h w, where `known_latent` is on
    bias: AttentionBias
    strengths: dict[str, Tensor]  # by mechanism; tensors, so that no change of them compiles anew

    def acts(self, mechanism: str, step: int, steps: int) -> bool:
        """Whether a mechanism is on in step 0, 1, ... of `steps`."""
        on = self.control.strength(mechanism) != 0
        return on and acts(self.control.span(mechanism), step, steps)

    @contextmanager
    def installed(self, unet: UNet2DConditionModel) -> Iterator[None]:
        """Attention with the bias while it is open; nothing is touched where that is off."""
        if self.control.attention == 0:
            yield
        else:
            with biased_self_attention(unet, self.bias):
                yield

    def gated(self, residual: Tensor) -> Tensor:
        """A residual nB c h w of the FIM, weakened where no foreground is."""
        near = self.near[residual.shape[2], residual.shape[3]]
        near = near.repeat(len(residual) // len(near), 1, 1, 1)
        gate = 1 - self.strengths["residual_gate"] * (1 - near)
        return residual * gate.to(residual.dtype)

    def with_known(self, latents: Tensor, noised: Tensor) -> Tensor:
        """`latents` drawn to the known ones, which `noised` has at the noise of the step."""
        return keep_known_latents(latents, noised, self.keep, self.strengths["known_latent"])


def plan_layout(
    control: LayoutControl | None,
    alpha: Tensor,
    latent_size: tuple[int, int],
    levels: int,
    known: Tensor | None,
) -> LayoutPlan | None:
    """The plan of a call; None where nothing is on.

    Args:
        control: strengths and spans.
        alpha: B 1 H W in [0, 1].
        latent_size: h, w of the latents.
        levels: resolutions of the UNet, each half of the one before.
        known: the foregrounds' scaled latents B c h w; needed by `known_latent` alone.
    """
    if control is None or not control.active():
        return None
    masks = foreground_masks(alpha, latent_size, levels)
    strengths = {name: alpha.new_full((), control.strength(name)) for name in control.active()}
    return LayoutPlan(
        control=control,
        near={(mask.shape[2], mask.shape[3]): mask for mask in masks},
        keep=keep_mask(alpha, latent_size),
        known=known,
        bias=AttentionBias(strengths.get("attention", alpha.new_zeros(())), masks),
        strengths=strengths,
    )


def foreground_masks(alpha: Tensor, size: tuple[int, int], levels: int) -> Sequence[Tensor]:
    """B 1 h w for each resolution, the finest of `size`: the largest alpha B 1 H W in each cell."""
    sizes = [(size[0] >> level, size[1] >> level) for level in range(levels)]
    return [F.adaptive_max_pool2d(alpha, own) for own in sizes]


def keep_mask(alpha: Tensor, size: tuple[int, int]) -> Tensor:
    """1 for latents that lie wholly inside the mask, B 1 h w, by min-pooling alpha B 1 H W."""
    return (-F.adaptive_max_pool2d(-alpha, size) > 0.5).to(alpha.dtype)


def keep_known_latents(
    latents: Tensor, noised: Tensor, keep: Tensor, strength: Tensor | float = 1.0
) -> Tensor:
    """`latents` drawn by `strength` to the known ones, noised to the same step, where `keep` is 1.

    All B c h w. At strength 1 the known ones, bit for bit.
    """
    drawn = torch.lerp(latents, noised, torch.as_tensor(strength).to(latents))
    return torch.where(keep > 0.5, drawn, latents)
