"""What differs each time that a sample is shown: functions of (seed, source slot), on the device.

In the hint: another light, an imprecise mask, another canvas. The scene and the mask of the loss
stay as they are: the mask marks where the element is in the target, however it was cut out for the
hint. Mirroring alone changes both.
"""

import logging
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from anyscene.compositing.hint import (
    empty_hint,
    jitter_alpha,
    jitter_foreground,
    make_hint,
    random_canvas,
)
from anyscene.config import DataConfig
from anyscene.data.sample import HostBatch
from anyscene.diffusion.random import Stream, uniform

log = logging.getLogger(__name__)

SIDE = re.compile(r"\b(left|right|(anti|counter-?)?clockwise)", re.IGNORECASE)
"""What names a side in a prompt: also leftmost, right-hand, and now and then a "right away"."""


def augmented_hint(
    rgb: Tensor, mask: Tensor, counter: Tensor, data: DataConfig, seed: int
) -> Tensor:
    """The hint B 5 H W as training shows it, of `rgb` B 3 H W and `mask` B 1 H W in [0, 1].

    `counter` is B, the source slots. With all strengths 0 it is `make_hint(rgb, mask)`.
    """
    alpha = jitter_alpha(mask, uniform(seed, counter, Stream.mask_jitter), data.mask_jitter)
    light = uniform(seed, counter, Stream.jitter, (3,))
    foreground = jitter_foreground(rgb, alpha, light, data.exposure_stops, data.tint)
    canvas = random_canvas(uniform(seed, counter, Stream.canvas, (3,)), data.canvas_colour)
    return make_hint(foreground, alpha, canvas)


def drop_hints(hint: Tensor, counter: Tensor, share: float, seed: int) -> Tensor:
    """Hints B 5 H W with a share of them, by slot, replaced by the empty one."""
    if share == 0:
        return hint
    dropped = uniform(seed, counter, Stream.foreground_dropout) < share
    return torch.where(dropped[:, None, None, None], empty_hint(hint), hint)


@dataclass
class Mirror:
    """Mirrors a share of the samples, but none whose prompt names a side; counts and logs those."""

    share: float
    prompts: int = 0
    sided: int = 0

    def __call__(self, batch: HostBatch, seed: int) -> HostBatch:
        """The batch with its chosen samples mirrored; tensors are where they were."""
        if self.share == 0:
            return batch
        kept = [bool(SIDE.search(prompt)) for prompt in batch["prompt"]]
        self._count(kept)
        counter = batch["counter"]
        chosen = uniform(seed, counter, Stream.flip) < self.share
        sided = torch.tensor(kept).to(counter.device, non_blocking=True)
        return mirrored(batch, chosen & ~sided)

    def _count(self, kept: list[bool]) -> None:
        self.prompts += len(kept)
        for _ in range(sum(kept)):
            self.sided += 1
            if self.sided & (self.sided - 1) == 0:  # 1, 2, 4, 8, ...
                log.warning(
                    "data.flip=%s: %d of %d prompts so far name a side; their scenes are never "
                    "mirrored",
                    self.share,
                    self.sided,
                    self.prompts,
                )


def mirrored(batch: HostBatch, chosen: Tensor) -> HostBatch:
    """The batch with the `chosen` samples (B bool) mirrored left to right; `truth` stays.

    Their crop is where it begins in the mirrored image, as SDXL's training mirrors before it crops.
    """

    def mirror(images: Tensor) -> Tensor:
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)

    height, width = batch["scene_uint8"].shape[2:]
    top, left = batch["crop_top_left"].unbind(1)  # B each
    original = batch["original_size"].double()  # B 2
    # The image was resized until it just covered the crop.
    scale = torch.maximum(height / original[:, 0], width / original[:, 1])
    resized_width = (original[:, 1] * scale).round().long()
    right = (resized_width - width - left).clamp(min=0)
    return {
        **batch,
        "scene_uint8": mirror(batch["scene_uint8"]),
        "mask_uint8": mirror(batch["mask_uint8"]),
        "elements_uint8": mirror(batch["elements_uint8"]),
        "crop_top_left": torch.stack([top, torch.where(chosen, right, left)], dim=1),
    }
