"""Randomly initialised folders of each family of bases, as `save_pretrained` of diffusers writes.

Widths are tiny; what tells the families apart is as in the published configurations: prediction
type, number of text encoders, attention heads, size conditioning, linear projections.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny import CAPTIONS
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from data_prep.text_encoder import train_tokenizer

FAMILIES = ("sd15", "sd21", "sd21-v", "sdxl")
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def family_base(folder: Path, family: str) -> Path:
    """A base of a family for images of 64 px, VAE factor 8, sides multiples of 16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        build = _build_xl if family == "sdxl" else _build_sd
        build(family).save_pretrained(folder)
    return folder


def _build_sd(family: str) -> StableDiffusionPipeline:
    tokenizer = train_tokenizer(CAPTIONS)
    second = family.startswith("sd21")
    prediction = "v_prediction" if family == "sd21-v" else "epsilon"
    scheduler = PNDMScheduler if family == "sd15" else DDIMScheduler
    return StableDiffusionPipeline(
        vae=_first_stage(0.18215),
        text_encoder=CLIPTextModel(_text(tokenizer, 16, "gelu" if second else "quick_gelu")),
        tokenizer=tokenizer,
        unet=_unet(
            cross_attention_dim=16,
            attention_head_dim=[1, 2] if second else 2,
            use_linear_projection=second,
        ),
        scheduler=scheduler(
            **BETAS, prediction_type=prediction, steps_offset=1, **_kept_on_range(scheduler)
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _build_xl(_: str) -> StableDiffusionXLPipeline:
    tokenizer = train_tokenizer(CAPTIONS)
    projection = 24
    return StableDiffusionXLPipeline(
        vae=_first_stage(0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_text(tokenizer, 16, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(
            _text(tokenizer, 32, "gelu", projection_dim=projection)
        ),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=16 + 32,
            attention_head_dim=[1, 2],
            use_linear_projection=True,
            transformer_layers_per_block=[1, 2],
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + projection,
        ),
        scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _kept_on_range(scheduler: type) -> dict[str, Any]:
    """What the published configurations say, and stock pipelines insist on."""
    return {"skip_prk_steps": True} if scheduler is PNDMScheduler else {"clip_sample": False}


def _first_stage(scaling_factor: float, **options: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        sample_size=64,
        **options,
    )


def _text(tokenizer: Any, width: int, activation: str, **options: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        **options,
    )
