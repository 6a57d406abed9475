"""`anyscene prepare base` on a few scenes: a stock folder, reused, kept to its recipe."""

from pathlib import Path

import pytest

from anyscene.errors import InputError


def test_base_is_a_stock_folder_and_keeps_to_its_recipe(demo_shards: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from anyscene.metrics.judge import Judge
    from data_prep.demo_base import BaseRecipe, prepare_base

    recipe = BaseRecipe(
        first_stage_channels=(8, 8, 8),
        latent_channels=4,
        first_stage_steps=2,
        text_width=16,
        text_steps=2,
        unet_channels=(8, 16),
        attention_heads=2,
        segmenter_steps=2,
        batch=2,
    )
    figures = prepare_base(demo_shards, tmp_path, recipe=recipe, seed=0, device="cpu")
    assert figures["first_stage"]["psnr"] > 0
    weights = (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    assert pipeline.unet.config["in_channels"] == 4
    assert Judge.from_pretrained(tmp_path / "judge").noise_floor["place_accuracy"] >= 0

    assert prepare_base(demo_shards, tmp_path, recipe=recipe, seed=0, device="cpu") == figures
    after = (tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert after == weights
    with pytest.raises(InputError, match="begun with seed=0, not 1"):
        prepare_base(demo_shards, tmp_path, recipe=recipe, seed=1, device="cpu")


def test_a_base_from_another_one_has_its_text_encoder_and_goes_on_from_its_first_stage(
    tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
) -> None:
    from anyscene.models.base import weights_sha256
    from anyscene.models.loading import load_base
    from data_prep.demo_base import BaseRecipe, prepare_base

    recipe = BaseRecipe(
        first_stage_channels=(8, 8, 8),
        latent_channels=4,
        first_stage_steps=1,
        unet_channels=(8, 16),
        attention_heads=2,
        segmenter_steps=1,
        batch=2,
        init=str(tiny_base_folder),
    )
    prepare_base(demo_shards, tmp_path, recipe=recipe, seed=0, device="cpu")
    before, after = load_base(str(tiny_base_folder)), load_base(str(tmp_path / "base"))
    assert weights_sha256(after.text_encoder) == weights_sha256(before.text_encoder)
    own, known = (one.vae.decoder.conv_in.weight for one in (after, before))
    assert 0 < (own - known).abs().max() < 1e-3  # one step of the warm-up's rate


def test_a_base_with_other_latents_than_the_one_it_goes_on_from_is_refused_at_once(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    from data_prep.demo_base import BaseRecipe, prepare_base

    recipe = BaseRecipe(latent_channels=8, init=str(tiny_base_folder))
    with pytest.raises(InputError, match="give --latent-channels 4"):
        prepare_base(tmp_path / "none", tmp_path / "out", recipe=recipe, seed=0, device="cpu")
    recipe = BaseRecipe(init=str(tmp_path))
    with pytest.raises(InputError, match=r"no vae/config\.json"):
        prepare_base(tmp_path / "none", tmp_path / "out", recipe=recipe, seed=0, device="cpu")
