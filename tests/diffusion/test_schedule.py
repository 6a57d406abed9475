"""The forward process and its targets against diffusers' schedulers."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from anyscene.diffusion.schedule import build_schedule
from anyscene.errors import ConfigError

CONFIGS = {
    "linear": {"beta_schedule": "linear"},
    "stable diffusion": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "zero terminal": {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True},
    "short": {"beta_schedule": "linear", "num_train_timesteps": 17},
    "by hand": {"trained_betas": [0.1, 0.2, 0.5]},
}


def draws(steps, count=6):
    generator = torch.Generator().manual_seed(5)
    latents, noise = (torch.randn(count, 4, 3, 5, generator=generator) for _ in range(2))
    timesteps = torch.randint(steps, (count,), generator=generator)
    timesteps[:2] = torch.tensor([0, steps - 1])
    return latents, noise, timesteps


@pytest.mark.parametrize("name", CONFIGS)
def test_noise_and_targets_equal_diffusers(name):
    theirs = DDIMScheduler(**CONFIGS[name])
    config = {**theirs.config, "prediction_type": "v_prediction"}
    ours = build_schedule(config)
    latents, noise, timesteps = draws(ours.steps)
    noisy = ours.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, theirs.add_noise(latents, noise, timesteps))
    velocity = theirs.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(ours.target(latents, noise, timesteps), velocity)
    alphas = theirs.alphas_cumprod[timesteps]
    torch.testing.assert_close(ours.snr(timesteps), alphas / (1 - alphas))


def test_targets_by_prediction_type():
    config = dict(DDPMScheduler().config)
    latents, noise, timesteps = draws(1000)
    for prediction, expected in (("epsilon", noise), ("sample", latents)):
        schedule = build_schedule({**config, "prediction_type": prediction})
        assert torch.equal(schedule.target(latents, noise, timesteps), expected)


def test_config_of_another_scheduler_class_gives_its_betas():
    theirs = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.001, beta_end=0.02)
    assert torch.equal(build_schedule(theirs.config).alphas_cumprod, theirs.alphas_cumprod)


def test_a_perfect_prediction_leads_back_to_the_latents():
    """One DDIM step to the end, given the target, inverts `add_noise` at any timestep."""
    for prediction in ("epsilon", "v_prediction", "sample"):
        theirs = DDIMScheduler(prediction_type=prediction, clip_sample=False)
        ours = build_schedule(theirs.config)
        latents, noise, _ = draws(ours.steps)
        theirs.set_timesteps(1)
        step = theirs.timesteps.expand(len(latents))
        noisy = ours.add_noise(latents, noise, step)
        result = theirs.step(ours.target(latents, noise, step), theirs.timesteps[0], noisy)
        torch.testing.assert_close(result.pred_original_sample, latents, atol=2e-4, rtol=1e-3)


def test_what_cannot_work_is_refused():
    zero = DDIMScheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ConfigError, match="noise cannot be predicted from pure noise"):
        build_schedule(zero.config)
    with pytest.raises(ConfigError, match="prediction_type='flow'; supported are epsilon"):
        build_schedule({**zero.config, "prediction_type": "flow"})
    for other in (EDMEulerScheduler, FlowMatchEulerDiscreteScheduler):
        with pytest.raises(ConfigError, match="scheduler has no betas"):
            build_schedule(other().config)
