"""Weights of the denoising loss against published formulas, and their properties."""

import pytest
import torch

from anyscene.config_method import LossConfig, Weighting
from anyscene.diffusion.loss import (
    SNR_FLOOR,
    denoising_loss,
    prior_preserving,
    region_weight,
    timestep_weight,
)
from anyscene.diffusion.schedule import Schedule

SNR = torch.tensor([2e-3, 0.5, 1.0, 4.9, 5.0, 5.1, 400.0])
GAMMA = 5.0
UNEVEN = LossConfig(inside=2.0, boundary=3.0, rest=0.5, boundary_width=0.1)


def training_script_weight(snr: torch.Tensor, prediction: str, gamma: float) -> torch.Tensor:
    """As diffusers' examples/text_to_image/train_text_to_image.py writes min-SNR."""
    weights = torch.stack([snr, gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    return weights / snr if prediction == "epsilon" else weights / (snr + 1)


def square_masks(batch=3, side=64):
    masks = torch.zeros(batch, 1, side, side)
    for number in range(batch):
        masks[number, :, 8 : 24 + 8 * number, 16:40] = 1
    return masks


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_is_the_published_weight(prediction):
    ours = timestep_weight(SNR, prediction, Weighting.min_snr, GAMMA)
    torch.testing.assert_close(ours, training_script_weight(SNR, prediction, GAMMA))


@pytest.mark.parametrize("weighting", [Weighting.min_snr, Weighting.snr_plus_one])
def test_all_predictions_weigh_the_same_error_alike(weighting):
    """The squared errors of eps and v are SNR and SNR + 1 times that of x."""
    of_x = timestep_weight(SNR, "sample", weighting, GAMMA)
    of_eps = timestep_weight(SNR, "epsilon", weighting, GAMMA) * SNR
    of_v = timestep_weight(SNR, "v_prediction", weighting, GAMMA) * (SNR + 1)
    torch.testing.assert_close(of_eps, of_x)
    torch.testing.assert_close(of_v, of_x)


def test_weights_by_hand():
    snr = torch.tensor([0.25, 1.0, 9.0])
    plus_one = timestep_weight(snr, "sample", Weighting.snr_plus_one, 6.25)
    assert plus_one.tolist() == [1.25, 2.0, 6.25]
    assert timestep_weight(snr, "sample", Weighting.min_snr, 5.0).tolist() == [0.25, 1.0, 5.0]
    for prediction in ("epsilon", "v_prediction", "sample"):
        uniform = timestep_weight(snr, prediction, Weighting.uniform, 5.0)
        assert uniform.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("weighting", list(Weighting))
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_terminal_step_is_trained(prediction, weighting):
    """At SNR 0, of zero-terminal-SNR schedules, the weight is finite and not zero."""
    terminal = timestep_weight(torch.zeros(1), prediction, weighting, GAMMA)
    assert terminal.isfinite().all()
    at_floor = timestep_weight(torch.full((1,), SNR_FLOOR), prediction, weighting, GAMMA)
    assert torch.equal(terminal, at_floor)
    assert terminal > 0


def test_region_weight_by_hand():
    """A 4x4 square inside 8x8 latents: 16 inside, a band of radius 1 of 20, 28 others."""
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    weight = region_weight(mask, (8, 8), UNEVEN)[0, 0]
    mean = (16 * 2.0 + 20 * 3.0 + 28 * 0.5) / 64
    torch.testing.assert_close(weight[3, 3] * mean, torch.tensor(2.0))
    torch.testing.assert_close(weight[1, 4] * mean, torch.tensor(3.0))
    torch.testing.assert_close(weight[0, 0] * mean, torch.tensor(0.5))
    assert (weight * mean).round(decimals=4).unique(return_counts=True)[1].tolist() == [28, 16, 20]


def test_the_band_is_as_wide_as_said_and_begins_at_the_last_cell_that_is_touched():
    """A share of the short side: two cells of 16 around a mask, also where it covers cells in part.

    What a cell has of the mask weighs as inside, and the rest of it as band.
    """
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 24:40, 32:50] = 1  # cells 6 to 9, and 8 to 11 with half of 12
    config = LossConfig(inside=0.0, boundary=1.0, rest=0.0, boundary_width=0.12)
    band = region_weight(mask, (16, 24), config)[0, 0]
    band = band / band[5, 9]
    row = torch.zeros(24)
    row[6:8], row[12], row[13:15] = 1, 0.5, 1
    torch.testing.assert_close(band[7], row)
    column = torch.zeros(16)
    column[4:6], column[10:12] = 1, 1
    torch.testing.assert_close(band[:, 9], column)


def test_region_weight_has_mean_1_whatever_the_mask():
    generator = torch.Generator().manual_seed(1)
    soft = torch.rand(4, 1, 64, 64, generator=generator)
    for masks in (soft, square_masks(), torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)):
        weight = region_weight(masks, (16, 16), UNEVEN)
        assert weight.shape == (len(masks), 1, 16, 16)
        torch.testing.assert_close(weight.mean((1, 2, 3)), torch.ones(len(masks)))
        assert (weight >= 0).all()


def test_equal_weights_are_1_everywhere():
    weight = region_weight(square_masks(), (16, 16), LossConfig())
    torch.testing.assert_close(weight, torch.ones_like(weight))


def loss_of(rows):
    generator = torch.Generator().manual_seed(2)
    prediction, target = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    schedule = Schedule(torch.linspace(0.99, 0.01, 10), "v_prediction")
    timesteps = torch.tensor([0, 5, 9])
    return denoising_loss(
        prediction[rows], target[rows], square_masks()[rows], timesteps[rows], schedule, UNEVEN
    )


def test_loss_of_a_sample_does_not_depend_on_the_others():
    together = loss_of([0, 1, 2])
    assert together.shape == (3,)
    apart = torch.cat([loss_of([2]), loss_of([0]), loss_of([1])])
    torch.testing.assert_close(apart, together[[2, 0, 1]], rtol=1e-6, atol=0)


def test_loss_is_the_weighted_mean_of_squares():
    schedule = Schedule(torch.tensor([0.5, 0.2]), "sample")
    prediction, target = torch.zeros(2, 4, 8, 8), torch.full((2, 4, 8, 8), 3.0)
    mask = torch.zeros(2, 1, 32, 32)
    loss = denoising_loss(prediction, target, mask, torch.tensor([0, 1]), schedule, UNEVEN)
    torch.testing.assert_close(loss, 9.0 * torch.tensor([1.0, 0.25]))


def test_error_counts_where_the_weight_is():
    schedule = Schedule(torch.tensor([0.5]), "epsilon")
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    losses = []
    for place in ((3, 3), (1, 4), (0, 0)):
        prediction = torch.zeros(1, 4, 8, 8)
        prediction[..., place[0], place[1]] = 1
        target, timestep = torch.zeros_like(prediction), torch.tensor([0])
        losses.append(denoising_loss(prediction, target, mask, timestep, schedule, UNEVEN))
    inside, boundary, rest = torch.cat(losses)
    torch.testing.assert_close(boundary / inside, torch.tensor(1.5))
    torch.testing.assert_close(rest / inside, torch.tensor(0.25))


def test_prior_preservation_is_the_published_formula_however_the_batch_is_cut():
    """Ruiz et al. 2023, eq. 2, by hand; two instances and four samples of the prior."""
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0, 40.0])
    data_set = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = 2.0 + 0.5 * 25.0
    weighted = prior_preserving(losses, data_set, prior_weight=0.5, mixed=2.0)
    assert weighted.mean().item() == pytest.approx(expected)
    alone = [prior_preserving(losses[n : n + 1], data_set[n : n + 1], 0.5, 2.0) for n in range(6)]
    assert torch.cat(alone).mean().item() == pytest.approx(expected)
    off = prior_preserving(losses, data_set, prior_weight=0.0, mixed=2.0)
    assert off.mean().item() == pytest.approx(2.0)
