"""Small things that tests share: a random base, a few demo scenes, and a run's configuration.

Heavy imports are inside the functions, so that tests without torch stay fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anyscene.config import Config

CAPTIONS = ["a red mug on a meadow", "warm light from the left", "cool light from the right"]


def tiny_base(
    folder: Path,
    *,
    factor: int = 4,
    prediction_type: str = "v_prediction",
    latent_channels: int = 4,
    size: int = 64,
    seed: int = 0,
) -> Path:
    """A randomly initialised Stable-Diffusion-type folder for images of `size` pixels.

    Its UNet has two levels, so that sides are multiples of 2 `factor`.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    from data_prep.demo_base import BaseRecipe, build_scheduler, build_unet
    from data_prep.first_stage import build_first_stage
    from data_prep.text_encoder import build_text_encoder, train_tokenizer

    recipe = BaseRecipe(
        first_stage_channels=(8,) * factor.bit_length(),
        latent_channels=latent_channels,
        text_width=16,
        unet_channels=(8, 16),
        attention_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer(CAPTIONS)
        pipeline = StableDiffusionPipeline(
            vae=build_first_stage(recipe.first_stage_channels, latent_channels),
            text_encoder=build_text_encoder(tokenizer, recipe.text_width),
            tokenizer=tokenizer,
            unet=build_unet(recipe, size, recipe.text_width),
            scheduler=build_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_demo(folder: Path, *, scenes: int = 8, val_scenes: int = 4, size: int = 64) -> Path:
    """A demo data set (coco, truth, shards) of few scenes; its shards are `folder`/shards/SPLIT."""
    from data_prep.demo_scenes import prepare_demo

    prepare_demo(folder, scenes=scenes, val_scenes=val_scenes, seed=0, size=size, workers=1)
    return folder


def tiny_config(base: Path, shards: Path, runs_dir: Path, *overrides: str) -> "Config":
    """Three training steps on two scenes each, two validation scenes, no workers, no tracker.

    `shards` holds the shard folders `train` and `val`; `overrides` are `key=value`, in the end.
    """
    from anyscene.config_io import load_config

    runs_dir.mkdir(parents=True, exist_ok=True)
    yaml = runs_dir / "tiny.yaml"
    yaml.write_text(
        f"name: tiny\nruns_dir: {runs_dir}\n"
        f"base: {{path: {base}}}\n"
        f"data: {{train: {shards / 'train'}, val: {shards / 'val'}, val_samples: 2, "
        "batch_size: 2, workers: 0}\n"
        "train: {steps: 3, learning_rate: 0.01, warmup_steps: 0, ema_decay: 0.5, threads: 1}\n"
        "sample: {steps: 3, guidance_scale: 2.0, micro_batch: 2}\n"
        "log: {logger: none, progress_bar: false}\n"
    )
    return load_config(yaml, overrides)
