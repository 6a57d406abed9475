"""What a caller of the pipeline gives, checked and in the form that sampling takes."""

import inspect
import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from anyscene.compositing.hint import BACKGROUND_GREY, empty_hint, make_hint
from anyscene.errors import InputError
from anyscene.layout_settings import LayoutControl, check_layout
from anyscene.models.base import Vae, encode_images, unet_factor
from anyscene.models.injection import control_condition
from anyscene.models.layout_control import LayoutPlan, plan_layout
from anyscene.models.text import TextCondition, TextEncoders, micro_condition
from anyscene.pipeline_checks import (
    check_embeddings,
    check_negative,
    check_prompts,
    check_range,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Foreground:
    """Colours B 3 H W and alpha B 1 H W in [0, 1], one an image."""

    rgb: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class TextInput:
    """Prompts, or embeddings in their place, as a caller gives them."""

    name: str  # of the argument
    prompts: str | list[str] | None
    hidden: Tensor | None  # B n d
    pooled: Tensor | None  # B p, of SDXL

    @property
    def missing(self) -> bool:
        """Whether nothing is given."""
        return self.prompts is None and self.hidden is None and self.pooled is None


def text_condition(encoders: TextEncoders | None, unet: Any, given: TextInput) -> TextCondition:
    """The condition of prompts, or of the embeddings in their place.

    Raises `InputError` where neither is given, or both, a part is missing or of another shape, or
    prompts have no encoder.
    """
    if given.hidden is None:
        if given.pooled is not None:
            raise InputError(f"pooled {given.name}_embeds need {given.name}_embeds beside them")
        if given.prompts is None:
            raise InputError(f"give {given.name} or {given.name}_embeds")
        prompts = check_prompts(given.prompts, given.name)
        if encoders is None:
            raise InputError(
                f"{given.name}={given.prompts!r}, but this pipeline was loaded without its text "
                f"encoder: give {given.name}_embeds"
            )
        for end in filter(None, map(encoders.unread, prompts)):
            tell_unread(given.name, encoders.tokenizer.model_max_length, end)
        return encoders.encode(prompts)
    if given.prompts is not None:
        raise InputError(f"give {given.name} or {given.name}_embeds, not both")
    check_embeddings(unet, given.hidden, given.pooled, given.name)
    return TextCondition(given.hidden, given.pooled)


@cache
def tell_unread(name: str, limit: int, end: str) -> None:
    """Log, once for each, that the end of a prompt is not read."""
    log.warning("%s: the text encoder reads %d tokens; not read is %r", name, limit, end)


def text_conditions(
    encoders: TextEncoders | None,
    unet: Any,
    positive: TextInput,
    negative: TextInput,
    zeros_for_empty: bool,
) -> tuple[TextCondition, TextCondition]:
    """The conditions of prompts and of negative prompts, or of the embeddings in their place.

    Without negative ones they are the empty prompt of the base, which in SDXL is zeros where
    `zeros_for_empty`; a text that is given is encoded, "" too, as diffusers' pipelines have it.

    Raises `InputError` where something is missing, or their numbers differ.
    """
    full = text_condition(encoders, unet, positive)
    if negative.missing and full.pooled is not None and zeros_for_empty:
        return full, TextCondition(*map(torch.zeros_like, (full.hidden, full.pooled)))
    if negative.hidden is None:
        own = per_prompt(negative.prompts, len(full.hidden))
        negative = replace(negative, prompts=own)
    empty = text_condition(encoders, unet, negative)
    check_negative(full, empty)
    return full, empty


def per_prompt(negative: str | list[str] | None, count: int) -> list[str]:
    """Negative prompts for `count` prompts: one for all, none, or one each."""
    return [negative or ""] * count if negative is None or isinstance(negative, str) else negative


def check_foreground(
    foreground: Tensor | None, mask: Tensor | None, count: int
) -> tuple[Tensor, Tensor] | None:
    """Foreground B 3 H W and mask B 1 H W in float32; None for text only.

    Raises `InputError` where they do not fit each other or `count` prompts, or are out of [0, 1].
    """
    if (foreground is None) != (mask is None):
        raise InputError("foreground and mask belong together: give both or neither")
    if foreground is None or mask is None:
        return None
    check_range("foreground", foreground)
    check_range("mask", mask)
    if foreground.ndim != 4 or foreground.shape[1] != 3 or len(foreground) != count:
        raise InputError(
            f"foreground has shape {tuple(foreground.shape)}; expected ({count}, 3, H, W), "
            "one for each prompt, in [0, 1]"
        )
    if mask.shape != (count, 1, *foreground.shape[2:]):
        raise InputError(
            f"mask has shape {tuple(mask.shape)}; "
            f"expected {(count, 1, *foreground.shape[2:])}, as the foreground"
        )
    return foreground.float(), mask.float()  # blending gives these very pixels back


def image_size(
    own: Foreground | None, height: int | None, width: int | None, unet: Any, vae_factor: int
) -> tuple[int, int]:
    """Height and width of the images in pixels; by default the base's own `sample_size` latents.

    Raises `InputError` where they differ from the foreground's, or are no multiples of the factors
    of the VAE and of the UNet.
    """
    if own is not None:
        given = (own.rgb.shape[2], own.rgb.shape[3])
        if (height or given[0], width or given[1]) != given:
            raise InputError(
                f"height={height} and width={width} differ from the foreground's {given}; "
                "leave them out or resize the foreground"
            )
        height, width = given
    default = unet.config.sample_size * vae_factor
    size = (height or default, width or default)
    multiple = vae_factor * unet_factor(unet)
    if size[0] % multiple or size[1] % multiple:
        fit = [max(multiple, round(side / multiple) * multiple) for side in size]
        raise InputError(
            f"size {size[0]}x{size[1]} must be multiples of {multiple} "
            f"(VAE factor {vae_factor} x UNet factor {unet_factor(unet)}); use {fit[0]}x{fit[1]}"
        )
    return size


def sampling_place(unet: Any, device: torch.device) -> dict[str, Any]:
    """The `device` and `dtype` of latents and conditions: the UNet's own dtype, but float32 under
    autocast, where a training run stores frozen networks in half."""
    half = torch.is_autocast_enabled(device.type)
    return {"device": device, "dtype": torch.float32 if half else unet.dtype}


def initial_latents(
    shape: tuple[int, ...], generator: Any, latents: Tensor | None, place: dict[str, Any]
) -> Tensor:
    """The noise B c h w to start from: `latents`, or drawn by one generator or one an image.

    `place` has the `device` and `dtype`. Raises `InputError` where these are not what they must be.
    """
    if latents is not None:
        if latents.shape != shape:
            raise InputError(f"latents has shape {tuple(latents.shape)}; expected {shape}")
        return latents.to(**place)
    given = generator if isinstance(generator, list) else [generator]
    if not all(isinstance(one, torch.Generator | None) for one in given):
        raise InputError(
            f"generator={generator!r} must be a torch.Generator, or a list of one an image: "
            "torch.Generator().manual_seed(SEED) makes one"
        )
    if isinstance(generator, list) and len(given) != shape[0]:
        raise InputError(f"{len(given)} generators for {shape[0]} images; give one an image")
    return randn_tensor(shape, generator=generator, **place)


def step_options(scheduler: Any, generator: Any, eta: float) -> dict[str, Any]:
    """What a scheduler's step takes beside its inputs. As diffusers' own pipelines do it, with an
    eta of 0 for those that take one: TCD's own default is another."""
    accepted = inspect.signature(scheduler.step).parameters
    given = {"generator": generator, "eta": eta}
    return {name: value for name, value in given.items() if name in accepted}


def uncropped(count: int, size: tuple[int, int], place: dict[str, Any]) -> Tensor:
    """SDXL's condition of `count` whole images of a size, B 6."""
    own = torch.tensor([size]).expand(count, 2)
    return micro_condition(own, torch.zeros_like(own), size).to(**place)


def controls(
    fim: ControlNetModel | None, vae: Vae, own: Foreground | None, knows_empty: bool
) -> tuple[Tensor | None, Tensor | None]:
    """What the FIM takes, and what it takes for guidance away from the empty hint.

    None where there is no FIM or foreground, and where the FIM does not know the empty hint.
    """
    if fim is None or own is None:
        return None, None
    hint = make_hint(own.rgb, own.alpha)
    hints = [hint, empty_hint(hint)] if knows_empty else [hint]
    first, *others = [control_condition(fim, vae, shown).to(fim.dtype) for shown in hints]
    return first, others[0] if others else None


def layout_plan(
    layout: LayoutControl | None,
    own: Foreground | None,
    unet: Any,
    vae: Vae,
    place: dict[str, Any],
    latent_size: tuple[int, int],
) -> LayoutPlan | None:
    """Layout control for a foreground; None without either. `place` has the latents' `dtype`."""
    if layout is None or own is None:
        return None
    check_layout(layout)
    known = None
    if layout.known_latent:
        pasted = own.rgb * own.alpha + BACKGROUND_GREY * (1 - own.alpha)
        known = encode_images(vae, pasted * 2 - 1).to(place["dtype"])
    levels = len(unet.config.block_out_channels)
    return plan_layout(layout, own.alpha, latent_size, levels, known)
