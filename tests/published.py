"""The configurations of published bases as folders without weights: facts, for counting."""

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from families import BETAS
from tiny import CAPTIONS
from transformers import CLIPTextConfig

from data_prep.text_encoder import train_tokenizer

UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""What differs from the defaults of diffusers' `UNet2DConditionModel`, which are SD 1's."""

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT_2 = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}


def published_base(folder: Path, family: str) -> Path:
    """The configurations of `sd15` or `sdxl`; the tokenizer alone is a small one."""
    xl = family == "sdxl"
    tokenizer = train_tokenizer(CAPTIONS)
    tokenizer.model_max_length = 77
    tokens = {"vocab_size": len(tokenizer)}
    for name in ("tokenizer", "tokenizer_2")[: 1 + xl]:
        tokenizer.save_pretrained(folder / name)
    configs: dict[str, Any] = {
        "unet": UNet2DConditionModel.config_name,
        "vae": AutoencoderKL.config_name,
    }
    (folder / "unet").mkdir()
    (folder / "vae").mkdir()
    (folder / "unet" / configs["unet"]).write_text(json.dumps(UNETS[family]))
    vae = {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "scaling_factor": 0.13025 if xl else 0.18215,
    }
    (folder / "vae" / configs["vae"]).write_text(json.dumps(vae))
    CLIPTextConfig(**TEXT, **tokens).save_pretrained(folder / "text_encoder")
    if xl:
        CLIPTextConfig(**TEXT_2, **tokens).save_pretrained(folder / "text_encoder_2")
    DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    if xl:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
