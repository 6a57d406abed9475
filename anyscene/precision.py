"""What `train.precision` means: the arithmetic of a step, and the dtype of frozen weights."""

from typing import Literal

import torch

from anyscene.config import Precision

COMPUTED_IN = {
    Precision.fp32: torch.float32,
    Precision.bf16: torch.bfloat16,
    Precision.fp16: torch.float16,
}
"""The dtype of a step's matrix products, in which weights without gradients are stored too."""

LIGHTNING: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    Precision.fp32: "32-true",
    Precision.bf16: "bf16-mixed",
    Precision.fp16: "16-mixed",
}
"""Lightning's names."""


def scales_loss(precision: Precision) -> bool:
    """Whether the loss is scaled up, for small gradients would be lost in fp16."""
    return precision is Precision.fp16
