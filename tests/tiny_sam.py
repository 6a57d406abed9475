"""A random Segment Anything model."""

from pathlib import Path

import torch
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil


def tiny_sam(folder: Path) -> Path:
    """A random SAM for images of 64 px, as `save_pretrained` writes it."""
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        window_size=4,
        global_attn_indexes=[0],
        num_pos_feats=8,
        mlp_dim=16,
        initializer_range=0.5,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=16,
        mlp_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        iou_head_hidden_dim=16,
    )
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompt,
        mask_decoder_config=decoder,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SamModel(config).save_pretrained(folder)
    sizes = {
        "size": {"longest_edge": 64},
        "mask_size": {"longest_edge": 16},
        "pad_size": {"height": 64, "width": 64},
        "mask_pad_size": {"height": 16, "width": 16},
    }
    SamProcessor(SamImageProcessorPil(**sizes)).save_pretrained(folder)
    return folder
