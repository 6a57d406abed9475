"""The optimizer of what is trained."""

from torch import nn, optim

from anyscene.config import Optimizer, Precision, TrainConfig


def build_optimizer(train: TrainConfig, parameters: list[nn.Parameter]) -> optim.Optimizer:
    """AdamW, or bitsandbytes' with averages in 8 bits.

    Fused kernels, but for fp16: there they would unscale the gradient after it was clipped.
    """
    settings = {
        "lr": train.learning_rate,
        "betas": (train.betas[0], train.betas[1]),
        "weight_decay": train.weight_decay,
    }
    match train.optimizer:
        case Optimizer.adamw:
            fused = train.precision is not Precision.fp16
            return optim.AdamW(parameters, **settings, fused=fused)
        case Optimizer.adamw8bit:
            from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

            return AdamW8bit(parameters, **settings)
