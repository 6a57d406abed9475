"""Arguments of the pipeline that cannot work: one line each, where the model would fail deep inside
or give a wrong image."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anyscene.config import Blend
from anyscene.errors import InputError
from anyscene.layout_settings import LayoutControl
from anyscene.models.text import SIZE_NUMBERS, TextCondition

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
ROUNDING = 0.01
"""How far outside of [0, 1] resized colours may be."""


def check_numbers(
    counts: Mapping[str, Any], scales: Mapping[str, Any], span: tuple[Any, Any]
) -> None:
    """Raises `InputError` where a count (None: by default) is no positive whole number, a scale is
    no finite number, or the span of steps in which the FIM acts, or the share of
    `guidance_rescale`, is none within [0, 1]."""
    for name, count in counts.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(f"{name}={count!r} must be a whole number greater than 0")
    start, end = span
    numbers = {**scales, "control_guidance_start": start, "control_guidance_end": end}
    for name, value in numbers.items():
        try:
            finite = math.isfinite(value)
        except (TypeError, ValueError):
            finite = False
        if not finite:
            raise InputError(f"{name}={value!r} must be a number")
    if not 0 <= scales["guidance_rescale"] <= 1:
        raise InputError(f"guidance_rescale={scales['guidance_rescale']} must be between 0 and 1")
    if not 0 <= start < end <= 1:
        raise InputError(
            f"control_guidance_start={start} and control_guidance_end={end} must be shares of the "
            "steps, the start below the end; for an image without the FIM leave out foreground"
        )


def check_choices(output_type: str, blend: Any, k: float, layout: Any, guided: bool) -> None:
    """Raises `InputError` where these are none of what they can be, or where layout and blend would
    do nothing, for the call is not `guided` by a foreground; before an image is made."""
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type={output_type!r} must be {', '.join(OUTPUT_TYPES)}")
    if not isinstance(blend, Blend) and blend not in Blend.__members__:
        raise InputError(f"blend={blend!r} must be {', '.join(Blend.__members__)}")
    if not 0 <= k <= 1:
        raise InputError(f"blend_k={k!r} must be between 0 (generated light) and 1 (own light)")
    if layout is not None and not isinstance(layout, LayoutControl):
        raise InputError(
            f"layout={layout!r} must be a LayoutControl, such as LayoutControl(attention=4)"
        )
    acting = {"layout": layout and layout.active(), "blend": blend not in (Blend.none, "none")}
    for name, acts in acting.items():
        if acts and not guided:
            raise InputError(
                f"{name} acts by a foreground: give foreground and mask, or leave {name} out"
            )


def check_prompts(prompts: Any, name: str) -> list[str]:
    """The prompts as a list. Raises `InputError` where they are no texts, or there is none."""
    listed = [prompts] if isinstance(prompts, str) else prompts
    texts = isinstance(listed, list | tuple) and all(isinstance(text, str) for text in listed)
    if not texts or not listed:
        raise InputError(f"{name}={prompts!r} must be a text, or a list of texts, one a scene")
    return list(listed)


def text_widths(unet: Any) -> tuple[int, int | None]:
    """Channels of the text that a UNet takes, and of the pooled one, which None but SDXL has."""
    config = unet.config
    if config.addition_embed_type != "text_time":
        return config.cross_attention_dim, None
    sizes = SIZE_NUMBERS * config.addition_time_embed_dim
    return config.cross_attention_dim, config.projection_class_embeddings_input_dim - sizes


def check_embeddings(unet: Any, hidden: Tensor, pooled: Tensor | None, name: str) -> None:
    """Raises `InputError` where embeddings are not of the shape that the UNet takes."""
    width, pooled_width = text_widths(unet)
    if (pooled is None) != (pooled_width is None):
        needed = "needs" if pooled is None else "has no use for"
        raise InputError(f"{name}_embeds of this base {needed} pooled embeddings beside it")
    if hidden.ndim != 3 or hidden.shape[2] != width:
        raise InputError(
            f"{name}_embeds has shape {tuple(hidden.shape)}; expected (prompts, tokens, {width})"
        )
    if pooled is not None and pooled.shape != (len(hidden), pooled_width):
        raise InputError(
            f"pooled {name}_embeds has shape {tuple(pooled.shape)}, not "
            f"{(len(hidden), pooled_width)}"
        )


def check_negative(full: TextCondition, empty: TextCondition) -> None:
    """Raises `InputError` where prompts and negative ones are not of one shape."""
    if len(empty.hidden) != len(full.hidden):
        raise InputError(f"{len(empty.hidden)} negative prompts for {len(full.hidden)} prompts")
    if empty.hidden.shape != full.hidden.shape:
        raise InputError(
            f"the negative prompts have {empty.hidden.shape[1]} tokens, the prompts "
            f"{full.hidden.shape[1]}; give negative_prompt_embeds of as many"
        )


def check_range(name: str, values: Any) -> None:
    """Raises `InputError` for what is no tensor, or has values outside of [0, 1]."""
    if not isinstance(values, Tensor):
        raise InputError(
            f"{name} is of type {type(values).__name__}; give a tensor in [0, 1]: "
            "anyscene.compositing.compose.read_canvas makes foreground and mask of an RGBA file"
        )
    low, high = (float(value) for value in values.float().aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also of what is not a number
        raise InputError(f"{name} has values from {low:g} to {high:g}; expected [0, 1]")
