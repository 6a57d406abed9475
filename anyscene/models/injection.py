"""The Foreground Injection Module (FIM): a ControlNet of the base that is shown the foreground."""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor, nn

from anyscene.compositing.canny import canny_edges
from anyscene.compositing.hint import HINT_CHANNELS
from anyscene.config_method import FimConfig, Hint
from anyscene.errors import ConfigError, InputError
from anyscene.models.base import Base, Vae, encode_images, vae_factor
from anyscene.models.loading import from_config, load_weights

CANNY_CHANNELS = 3
EMBEDDER_WIDTHS = (16, 32, 96, 256)  # of ControlNet (Zhang et al. 2023), for a factor of 8


def hint_kind(fim: ControlNetModel) -> Hint:
    """What a FIM is shown, read from its own config: a latent's embedder has one resolution, and
    edges have three channels.

    The number of channels alone does not tell: Stable Diffusion's latent with its mask has five, as
    a pixel hint.
    """
    config: Any = fim.config
    if len(config.conditioning_embedding_out_channels) == 1:
        return Hint.latent
    return Hint.canny if config.conditioning_channels == CANNY_CHANNELS else Hint.pixel


def build_fim(config: FimConfig, base: Base, seed: int, weights: bool = True) -> ControlNetModel:
    """A FIM for `base`: loaded from `config.init`, or grown from the base's UNet.

    Without `weights` those of `config.init` are not read: for counting what a step costs.

    At initialisation it changes nothing: the convolutions that lead into the UNet are zero. Unlike
    ControlNet's, the embedder's last layer is small random, not zero: with two zero layers in
    series the embedder would get no gradient until the second has moved.

    Raises:
        ConfigError: `embedder_channels` that don't fit the first stage, or `transformer_layers`
            that don't fit the UNet.
        InputError: `init` that is missing or belongs to another base.
    """
    if config.init is not None:
        return _load_fim(config.init, base, config.hint, weights)
    stages = vae_factor(base.vae).bit_length()  # log2(factor) + 1
    match config.hint:
        case Hint.pixel | Hint.canny:
            widths = tuple(config.embedder_channels or EMBEDDER_WIDTHS[:stages])
            channels = HINT_CHANNELS if config.hint is Hint.pixel else CANNY_CHANNELS
            if any(width < 1 for width in widths):
                raise ConfigError(f"fim.embedder_channels={list(widths)} must be positive numbers")
            if len(widths) != stages:
                raise ConfigError(
                    f"fim.embedder_channels={list(widths)} has {len(widths)} entries; the base's "
                    f"VAE factor {vae_factor(base.vae)} needs log2(factor) + 1 = {stages}"
                )
        case Hint.latent:
            unet: Any = base.unet.config
            first_stage: Any = base.vae.config
            widths = (unet.block_out_channels[0],)
            channels = first_stage.latent_channels + 1
    fim = ControlNetModel.from_unet(
        base.unet, conditioning_channels=channels, conditioning_embedding_out_channels=widths
    )
    if config.transformer_layers is not None:
        fim = shrink_fim(fim, config.transformer_layers)
    generator = torch.Generator().manual_seed(seed)
    _initialise_embedder(fim, generator)
    return fim.requires_grad_(True).train()


def transformer_layers(fim: ControlNetModel) -> list[int]:
    """Transformer layers in the blocks of each level, from the highest resolution."""
    config: Any = fim.config
    pairs = zip(_depths(config), config.down_block_types, strict=True)
    return [depth if "CrossAttn" in kind else 0 for depth, kind in pairs]


def _depths(config: Any) -> list[int]:
    """Transformer layers by level as a configuration has them, which says one for all as well."""
    depths = config.transformer_layers_per_block
    return [depths] * len(config.block_out_channels) if isinstance(depths, int) else list(depths)


def shrink_fim(fim: ControlNetModel, layers: list[int]) -> ControlNetModel:
    """A FIM with fewer transformer layers in the blocks of each level, and otherwise the same.

    Still a stock `ControlNetModel`: a level without any has plain `DownBlock2D`s, or a middle block
    without attention. The first layers of the base are kept.
    """
    config: Any = fim.config
    levels, kinds = len(config.block_out_channels), list(config.down_block_types)
    own, most = _depths(config), transformer_layers(fim)
    if len(layers) != levels or any(n < 0 or n > m for n, m in zip(layers, most, strict=False)):
        raise ConfigError(
            f"fim.transformer_layers={layers} does not fit the base's UNet, which has {most}: one "
            "number for each level, from 0 to the base's"
        )
    kinds = ["DownBlock2D" if n == 0 else k for n, k in zip(layers, kinds, strict=True)]
    middle = {} if layers[-1] or most[-1] == 0 else {"mid_block_type": "UNetMidBlock2D"}
    depth = [max(1, n) for n in layers]
    if most[-1] == 0:  # the middle block has attention though its level has none
        depth[-1] = own[-1]
    smaller = ControlNetModel.from_config(
        {**config, "down_block_types": kinds, "transformer_layers_per_block": depth, **middle}
    )
    assert isinstance(smaller, ControlNetModel)
    known = fim.state_dict()
    smaller.load_state_dict({name: known[name] for name in smaller.state_dict()}, strict=True)
    return smaller


@torch.no_grad()
def _initialise_embedder(fim: ControlNetModel, generator: torch.Generator) -> None:
    """Weights of the new layers as a function of the generator alone, whatever the device."""
    embedder = fim.controlnet_cond_embedding
    for layer in [embedder.conv_in, *embedder.blocks]:
        drawn = torch.empty(layer.weight.shape, device="cpu")
        layer.weight.copy_(nn.init.kaiming_normal_(drawn, generator=generator))
        nn.init.zeros_(layer.bias)
    drawn = torch.empty(embedder.conv_out.weight.shape, device="cpu")
    embedder.conv_out.weight.copy_(nn.init.normal_(drawn, std=0.02, generator=generator))


def _load_fim(path: str, base: Base, hint: Hint, weights: bool) -> ControlNetModel:
    folder = Path(path) / "controlnet"
    source = str(folder if folder.is_dir() else path)
    load = load_weights if weights else from_config
    fim = load(ControlNetModel, source, "fim.init")
    check_same_base(fim, base.unet, f"fim.init={path!r}")
    if hint_kind(fim) is not hint:
        raise InputError(
            f"fim.init={path!r} was trained with fim.hint={hint_kind(fim).name}, but fim.hint is "
            f"{hint.name}; give fim.hint={hint_kind(fim).name}"
        )
    return fim.requires_grad_(True).train()


def check_same_base(fim: ControlNetModel, unet: Any, named: str) -> None:
    """Raises `InputError` where a ControlNet, which a line calls `named`, does not fit a UNet."""
    for key in ("block_out_channels", "in_channels", "cross_attention_dim"):
        if fim.config[key] != unet.config[key]:
            raise InputError(
                f"{named} has {key}={fim.config[key]}, the base has "
                f"{unet.config[key]}: it was trained on another base"
            )


def control_condition(fim: ControlNetModel, vae: Vae, hint: Tensor) -> Tensor:
    """What the FIM's embedder takes, from the five-channel pixel hint B 5 H W in [0, 1].

    For a pixel FIM the hint itself; for one of edges those of the foreground on grey, B 3 H W; for
    a latent one the foreground's latent (on grey) and the pooled mask, B c+1 h w.
    """
    match hint_kind(fim):
        case Hint.pixel:
            return hint
        case Hint.canny:
            return canny_edges(hint[:, :3])
    foreground = encode_images(vae, hint[:, :3] * 2 - 1)
    size = (foreground.shape[2], foreground.shape[3])
    mask = F.adaptive_avg_pool2d(hint[:, 3:4], size)
    return torch.cat([foreground, mask.to(foreground.dtype)], dim=1)


@torch.no_grad()
def embedder_target(base: Base, hint: Tensor) -> Tensor:
    """The base's own view of the foreground: its first convolution, without bias, of the latent of
    the foreground on grey, B c0 h w.

    An embedder that gives this lets the FIM's copied encoder start from features that it already
    understands; a random one has to find them through the whole network.
    """
    latents = base.encode(hint[:, :3] * 2 - 1)
    return F.conv2d(latents, base.unet.conv_in.weight, padding=1)


def fit_embedder(
    fim: ControlNetModel,
    base: Base,
    hints: Iterable[Tensor],
    steps: int,
    rate: float,
    accumulate: int = 1,
) -> float:
    """Fit the embedder alone to `embedder_target`, by AdamW.

    A step's batch is `accumulate` hints B 5 H W, of which one is looked at at a time. Returns the
    last loss as a share of the target's variance: 0 is perfect, 1 is nothing.
    """
    embedder = fim.controlnet_cond_embedding
    optimizer = torch.optim.AdamW(embedder.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps)
    hints = iter(hints)
    share = 1.0
    for _ in range(steps):
        optimizer.zero_grad()
        targets, whole_loss = [], 0.0
        for hint in islice(hints, accumulate):
            targets.append(embedder_target(base, hint))
            loss = F.mse_loss(embedder(hint), targets[-1]) / accumulate
            loss.backward()
            whole_loss += float(loss.detach())
        optimizer.step()
        schedule.step()
        share = whole_loss / float(torch.cat(targets).var())
    optimizer.zero_grad()
    return share


def take_first_embedder(fim: ControlNetModel, broadcast: Callable[[Any], Any]) -> None:
    """Give all ranks the first one's embedder: each has fitted its own, which need not be the same
    to the last bit, and weights that are shared out must be. DDP does so by itself."""
    embedder = fim.controlnet_cond_embedding
    own = {name: value.cpu() for name, value in embedder.state_dict().items()}
    embedder.load_state_dict(broadcast(own))
