"""Configuration of what is trained on a base: the Foreground Injection Module and its loss."""

from dataclasses import dataclass
from enum import Enum


class Hint(Enum):
    """What the Foreground Injection Module (FIM) is shown."""

    pixel = "pixel"
    latent = "latent"
    canny = "canny"


class Weighting(Enum):
    """Weight of the loss over the signal-to-noise ratio, see `diffusion.loss`."""

    uniform = "uniform"
    min_snr = "min_snr"
    snr_plus_one = "snr_plus_one"


@dataclass
class FimConfig:
    """The Foreground Injection Module: a `ControlNetModel` grown from the base's UNet."""

    init: str | None = None
    """Folder of a FIM, or of an export with `controlnet/`, to start from; null: a copy of the
    base."""
    hint: Hint = Hint.pixel
    """`pixel`: five image channels, for stock pipelines. `latent`: the foreground's latent, for our
    pipeline alone; on the demo it learns slower (docs/demo.md). `canny`: the edges of the
    foreground on grey, three channels, as published ControlNets take them: the baseline that sees
    neither colour nor alpha."""
    embedder_channels: list[int] | None = None
    """Widths of the hint embedder, log2(VAE factor) + 1 entries; null: 16, 32, 96, 256, as many
    as it takes."""
    fit_embedder_steps: int = 0
    """Steps in which the embedder alone learns the foreground's latent before training. 0: off."""
    transformer_layers: list[int] | None = None
    """A smaller FIM: transformer layers a block of each level of the UNet, from the highest
    resolution, at most the base's, such as [0, 0, 1] for SDXL's [0, 2, 10]. null: the base's."""


@dataclass
class LossConfig:
    """Weights of the denoising loss, and its noise."""

    weighting: Weighting = Weighting.min_snr
    """Weight over timesteps."""
    gamma: float = 5.0
    """Cap of the weight in `min_snr` and `snr_plus_one`. > 0."""
    inside: float = 1.0
    """Relative weight of latents inside the foreground mask. >= 0."""
    boundary: float = 1.0
    """Relative weight of the band just outside the mask, where extensions and shadows are. >= 0."""
    rest: float = 1.0
    """Relative weight of everything else. >= 0."""
    boundary_width: float = 0.06
    """Width of the boundary band as a share of the image's short side. (0, 1)."""
    prior_weight: float | None = None
    """Prior preservation (Ruiz et al. 2023, eq. 2): the loss is the mean over the samples of
    `data.train` plus this times the mean over those of `data.mix`. null: all samples weigh alike.
    >= 0."""
    offset_noise: float = 0.0
    """Strength of noise that is the same all over a channel (Guttenberg 2023), which lets the base
    learn very dark and bright images; about 0.1. 0: off. >= 0."""
