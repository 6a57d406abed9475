"""Whether the parts of a base fit each other."""

from typing import Any, cast

from diffusers import DiffusionPipeline

from anyscene.errors import InputError
from anyscene.models.base import Base
from anyscene.models.text import SIZE_NUMBERS

OTHER_CONDITIONS = (
    "time_cond_proj_dim",  # the guidance scale: bases distilled as LCM
    "class_embed_type",  # the image: unCLIP
    "num_class_embeds",  # the noise level: upscalers
    "encoder_hid_dim_type",
)
"""Settings of a UNet that takes more than text, timestep and SDXL's sizes. diffusers calls some of
them without, and they give another image."""


def check_fit(named: str, base: Base | DiffusionPipeline) -> None:
    """Raises `InputError` where the parts of a base, or of a pipeline, are of different models, or
    its UNet takes what none of them gives. `named` is what a line calls it."""
    base = cast(Base, base)  # whose parts a pipeline has by the same names
    _check_tokenizer(named, "tokenizer", base.tokenizer, base.text_encoder)
    unet: Any = base.unet.config
    width = base.text_encoder.config.hidden_size
    if base.text_encoder_2 is not None:
        second = base.text_encoder_2.config
        _check_tokenizer(named, "tokenizer_2", base.tokenizer_2, base.text_encoder_2)
        width += second.hidden_size
        sizes = SIZE_NUMBERS * (unet.addition_time_embed_dim or 0)
        pooled = (second.projection_dim or 0) + sizes
        if unet.projection_class_embeddings_input_dim != pooled:
            raise InputError(
                f"{named}: its second text encoder and sizes give {pooled} channels but "
                f"its UNet expects {unet.projection_class_embeddings_input_dim}; "
                "the parts are of different models"
            )
    if unet.cross_attention_dim != width:
        raise InputError(
            f"{named}: its text encoder gives {width} channels but its UNet expects "
            f"{unet.cross_attention_dim}; the parts are of different models"
        )
    for name in OTHER_CONDITIONS:
        if unet[name] is not None:
            raise InputError(
                f"{named}: its UNet has {name}={unet[name]!r}, a condition that this "
                "version does not give it; of a distilled base give the one that it was made of"
            )


def check_channels(named: str, base: Base | DiffusionPipeline) -> None:
    """Raises `InputError` where a UNet takes more than latents, as those made for inpainting."""
    base = cast(Base, base)
    unet: Any = base.unet.config
    first_stage: Any = base.vae.config
    channels = first_stage.latent_channels
    if unet.in_channels != channels:
        raise InputError(
            f"{named}: the first stage has {channels} latent channels but the UNet "
            f"takes {unet.in_channels} (inpainting UNets, with 9, are not a base)"
        )


def _check_tokenizer(named: str, name: str, tokens: Any, encoder: Any) -> None:
    text = encoder.config
    if (
        tokens.model_max_length > text.max_position_embeddings
        or max(tokens.get_vocab().values()) >= text.vocab_size
        or len(tokens) < text.vocab_size // 2
    ):
        raise InputError(
            f"{named}: its {name} has {len(tokens)} tokens and prompts of "
            f"{tokens.model_max_length}, its text encoder takes {text.vocab_size} and "
            f"{text.max_position_embeddings}; the tokenizer is missing or of another model"
        )
