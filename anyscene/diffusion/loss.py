"""The denoising loss: weights over timesteps and over the picture, as pure functions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from anyscene.config_method import LossConfig, Weighting
from anyscene.diffusion.schedule import Schedule

SNR_FLOOR = 1e-3  # keeps the terminal step of zero-terminal-SNR schedules in training


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Noise B C h w plus `strength` times one draw for each sample and channel, `offset` B C.

    Guttenberg 2023, "Diffusion with offset noise"; as diffusers' training scripts have it, the
    network is to predict the sum.
    """
    return noise + strength * offset[:, :, None, None]


def timestep_weight(snr: Tensor, prediction: str, weighting: Weighting, gamma: float) -> Tensor:
    """Weight of the squared error of what is predicted, by signal-to-noise ratio, B.

    With x-space weights w(SNR): `min_snr` is min(SNR, gamma) (Hang et al. 2023, eq. 9),
    `snr_plus_one` is min(SNR + 1, gamma) (Salimans and Ho 2022, sec. 4, capped). The squared errors
    of eps and v are SNR and SNR + 1 times that of x, so their weights are w / SNR and
    w / (SNR + 1). `uniform` is 1 on the prediction itself. SNR is floored at `SNR_FLOOR`.
    """
    snr = snr.clamp(min=SNR_FLOOR)
    match weighting:
        case Weighting.uniform:
            return torch.ones_like(snr)
        case Weighting.min_snr:
            weight = snr.clamp(max=gamma)
        case Weighting.snr_plus_one:
            weight = (snr + 1).clamp(max=gamma)
    match prediction:
        case "epsilon":
            return weight / snr
        case "v_prediction":
            return weight / (snr + 1)
        case _:
            return weight


def region_weight(mask: Tensor, size: tuple[int, int], config: LossConfig) -> Tensor:
    """Weights of latents by region, B 1 h w with mean 1 for every sample.

    Normalised per sample, so that micro-batches and ranks do not change the gradient.

    Args:
        mask: B 1 H W in [0, 1], 1 is foreground.
        size: (h, w) of the latents.
        config: relative weights inside, in the band just outside, and of the rest.
    """
    inside = F.adaptive_avg_pool2d(mask, size)
    radius = max(1, round(config.boundary_width * min(size)))
    near = F.max_pool2d(F.adaptive_max_pool2d(mask, size), 2 * radius + 1, 1, radius)
    band = (near - inside).clamp(min=0)
    weight = config.inside * inside + config.boundary * band + config.rest * (1 - inside - band)
    return weight / weight.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)


def prior_preserving(losses: Tensor, data_set: Tensor, prior_weight: float, mixed: float) -> Tensor:
    """The losses, B, weighted so that their mean is that of prior preservation.

    L = mean of L_instance + prior_weight * mean of L_prior (Ruiz et al. 2023, eq. 2), for batches
    with `mixed` samples of the prior to one instance. A weight depends on its own sample alone, so
    that micro-batches and ranks may cut the batch anywhere.

    Args:
        losses: B.
        data_set: B int64, 0 for instances, higher for the prior.
        prior_weight: lambda.
        mixed: samples of the prior for each instance, > 0.
    """
    whole = 1 + mixed  # over the share of the instances, 1 / (1 + mixed)
    return losses * torch.where(data_set == 0, whole, whole * prior_weight / mixed)


def denoising_loss(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    config: LossConfig,
) -> Tensor:
    """Weighted squared error of every sample, B.

    Args:
        prediction, target: B C h w.
        mask: B 1 H W in [0, 1].
        timesteps: B int64.
    """
    error = F.mse_loss(prediction.float(), target.float(), reduction="none")  # B C h w
    error = (error * region_weight(mask, (error.shape[2], error.shape[3]), config)).mean((1, 2, 3))
    weight = timestep_weight(
        schedule.snr(timesteps), schedule.prediction, config.weighting, config.gamma
    )
    return error * weight
