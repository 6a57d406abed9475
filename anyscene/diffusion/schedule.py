"""The forward process and its targets, as the base's own scheduler config states them."""

from dataclasses import dataclass
from typing import Any

from diffusers import DDIMScheduler
from torch import Tensor

from anyscene.errors import ConfigError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
NO_PURE_NOISE = (
    "zero terminal SNR (rescale_betas_zero_snr) with prediction_type='epsilon': "
    "noise cannot be predicted from pure noise; it needs v_prediction or sample"
)


@dataclass(frozen=True)
class Schedule:
    """`alphas_cumprod` (T, float32) and what the network predicts."""

    alphas_cumprod: Tensor
    prediction: str

    @property
    def steps(self) -> int:
        """Number of training timesteps T."""
        return len(self.alphas_cumprod)

    def signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at `timesteps` (B int64), each B 1 1 1."""
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar), B."""
        alpha = self.alphas_cumprod[timesteps]
        return alpha / (1 - alpha)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps (Ho et al. 2020, eq. 4), B C h w."""
        signal, sigma = self.signal_and_noise(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network is to predict, B C h w. v as in Salimans and Ho 2022, app. D."""
        match self.prediction:
            case "epsilon":
                return noise
            case "sample":
                return latents
            case _:
                signal, sigma = self.signal_and_noise(timesteps)
                return signal * noise - sigma * latents


def rescale_to_zero_snr(scheduler: Any) -> Any:
    """The scheduler with betas rescaled to zero terminal SNR and steps spaced to begin at it (Lin
    et al. 2024, sections 3.1 and 3.3).

    Raises `ConfigError` for a base that predicts noise and for a scheduler class without that
    option.
    """
    if scheduler.config.get("prediction_type", "epsilon") == "epsilon":
        raise ConfigError(f"train.zero_terminal_snr=true: {NO_PURE_NOISE}")
    if "rescale_betas_zero_snr" not in scheduler.config:
        raise ConfigError(
            f"train.zero_terminal_snr=true: the base's {type(scheduler).__name__} has no zero "
            "terminal SNR; put a DDIMScheduler into the base's scheduler folder"
        )
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return type(scheduler).from_config({**scheduler.config, **changes})


def build_schedule(scheduler_config: dict) -> Schedule:
    """The schedule that a diffusers scheduler config describes, terminal SNR included.

    Raises `ConfigError` for another prediction type, for one without betas (flow matching, EDM) and
    for noise that is to be predicted from pure noise.
    """
    if "beta_start" not in scheduler_config:  # DDIMScheduler would take betas of its own
        raise ConfigError(
            f"the base's {scheduler_config.get('_class_name', 'scheduler')} has no betas: bases of "
            "flow matching or EDM are not supported"
        )
    prediction = scheduler_config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise ConfigError(
            f"the base's scheduler has prediction_type={prediction!r}; "
            f"supported are {', '.join(PREDICTIONS)}"
        )
    # DDIMScheduler derives betas from the shared keys, with rescaling to zero terminal SNR.
    scheduler: Any = DDIMScheduler.from_config(scheduler_config)
    alphas = scheduler.alphas_cumprod.float()
    if prediction == "epsilon" and float(alphas[-1]) == 0:
        raise ConfigError(NO_PURE_NOISE)
    return Schedule(alphas, prediction)
