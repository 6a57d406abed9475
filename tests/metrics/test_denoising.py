"""The validation loss by timestep and the swap ratio, against plain means."""

import pytest
import torch

from anyscene.metrics.denoising import DenoisingLoss


def test_means_by_part_of_the_timesteps():
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])
    position = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.999])
    metric = DenoisingLoss()
    metric.update(losses[:2], position[:2], None)
    metric.update(losses[2:], position[2:], losses[2:] * 3)
    assert metric.compute() == {
        "loss": pytest.approx(6.2),
        "loss_timesteps_1_of_4": 1.5,
        "loss_timesteps_2_of_4": 4.0,
        "loss_timesteps_3_of_4": 8.0,
        "loss_timesteps_4_of_4": 16.0,
        "swap_ratio": 3.0,
    }


def test_parts_without_samples_are_left_out():
    metric = DenoisingLoss()
    metric.update(torch.tensor([2.0]), torch.tensor([0.6]), None)
    assert metric.compute() == {"loss": 2.0, "loss_timesteps_3_of_4": 2.0}


def test_sums_stay_in_double_precision():
    metric = DenoisingLoss().half()
    for _ in range(100):
        metric.update(torch.full((1000,), 0.1), torch.zeros(1000), None)
    assert metric.compute()["loss"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)
