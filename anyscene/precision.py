"""What `train.precision` means: the arithmetic of a step, and the dtype of frozen weights."""

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.plugins.precision import Precision as PrecisionPlugin

from anyscene.config import Precision

COMPUTED_IN = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
}
"""The dtype of a step's matrix products, in which weights without gradients are stored too."""


def precision_plugin(precision: Precision, device: str) -> PrecisionPlugin:
    """Lightning's arithmetic of a step on `cuda` or `cpu`.

    Given as a plugin, for by name Lightning would quietly compute in bf16 where fp16 was asked for
    on a CPU.
    """
    match precision:
        case Precision.fp32:
            return PrecisionPlugin()
        case Precision.bf16:
            return MixedPrecision("bf16-mixed", device)
        case Precision.fp16:
            return MixedPrecision("16-mixed", device)


def scales_loss(precision: Precision) -> bool:
    """Whether the loss is scaled up, for small gradients would be lost in fp16."""
    return precision is Precision.fp16
