"""The denoising loss of validation: over all timesteps, by part of them, and with hints swapped."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

BINS = 4
"""Parts of the timesteps, the least noisy first."""


class DenoisingLoss(Metric):
    """Means over samples, summed in float64 over all ranks.

    `loss` over everything and `loss_timesteps_1_of_4`, ... by part of the timesteps; a training
    loss alone is too noisy to tell whether anything is learnt. `swap_ratio` is the loss with the
    hints of other samples over the loss with their own: at 1 the hints change nothing, above it
    they are used.
    """

    total: Tensor
    count: Tensor
    swapped: Tensor

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(BINS, dtype=torch.float64)
        self.add_state("total", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("swapped", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: Any) -> "DenoisingLoss":  # noqa: ARG002
        """Stay in float64."""
        return self

    def update(self, losses: Tensor, position: Tensor, swapped: Tensor | None) -> None:
        """Add samples.

        Args:
            losses: B, each sample's loss.
            position: B in [0, 1), the timestep as a share of all.
            swapped: B, the losses with hints of other samples; None where there are none.
        """
        bins = (position * BINS).long()
        self.total.index_add_(0, bins, losses.double())
        self.count.index_add_(0, bins, torch.ones_like(losses, dtype=torch.float64))
        if swapped is not None:
            self.swapped += torch.stack([swapped.double().sum(), losses.double().sum()])

    def compute(self) -> dict[str, float]:
        """The figures; a part of the timesteps that no sample had is left out."""
        figures = {"loss": float(self.total.sum() / self.count.sum())}
        for number in range(BINS):
            if self.count[number] > 0:
                mean = self.total[number] / self.count[number]
                figures[f"loss_timesteps_{number + 1}_of_{BINS}"] = float(mean)
        if self.swapped[1] > 0:
            figures["swap_ratio"] = float(self.swapped[0] / self.swapped[1])
        return figures
