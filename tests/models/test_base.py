"""The base: loading it, what it computes, and its hash."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, StableDiffusionXLPipeline
from families import family_base
from safetensors.torch import load_file, save_file
from sampling import moved_fim
from tiny import CAPTIONS, tiny_base

from anyscene.image_jobs import load_model
from anyscene.models.base import (
    Base,
    decode_latents,
    encode_images,
    unet_factor,
    vae_factor,
    weights_sha256,
)
from anyscene.models.loading import load_base


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(str(tiny_base_folder))


def test_everything_is_frozen_and_in_evaluation_mode(base):
    assert not any(parameter.requires_grad for parameter in base.parameters())
    assert not any(module.training for module in base.modules())
    assert {parameter.dtype for parameter in base.parameters()} == {torch.float32}


def test_parts_equal_those_of_the_stock_pipeline(base, tiny_base_folder):
    theirs = StableDiffusionPipeline.from_pretrained(tiny_base_folder)
    for name, module in (("unet", base.unet), ("vae", base.vae), ("text", base.text_encoder)):
        other = getattr(theirs, "text_encoder" if name == "text" else name)
        assert weights_sha256(module) == weights_sha256(other)
    assert type(base.scheduler) is type(theirs.scheduler)
    assert dict(base.scheduler.config) == dict(theirs.scheduler.config)
    prompts = ["a red mug on a meadow", ""]
    positive, negative = theirs.encode_prompt(prompts, "cpu", 1, True)
    torch.testing.assert_close(base.text(prompts).hidden, positive)
    torch.testing.assert_close(base.text(["", ""]).hidden, negative)


def test_long_prompts_are_cut_and_keep_their_end_token(base):
    length = base.tokenizer.model_max_length
    long = "warm light from the left " * length
    tokens = base.tokenizer([long], truncation=True, max_length=length)["input_ids"][0]
    assert len(tokens) == length
    assert tokens[-1] == base.tokenizer.eos_token_id
    assert base.text([long]).hidden.shape == (1, length, base.text_encoder.config.hidden_size)


@pytest.mark.parametrize(("factor", "channels"), [(4, 4), (8, 3)])
def test_first_stage_shapes(factor, channels, tmp_path):
    base = load_base(str(tiny_base(tmp_path / "b", factor=factor, latent_channels=channels)))
    assert (vae_factor(base.vae), unet_factor(base.unet)) == (factor, 2)
    assert base.pixel_multiple() == 2 * factor
    images = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = base.encode(images)
    assert latents.shape == (2, channels, 64 // factor, 32 // factor)
    assert decode_latents(base.vae, latents).shape == images.shape


def test_latents_are_those_of_diffusers(base):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    posterior = base.vae.encode(images).latent_dist
    scale, shift = base.vae.config.scaling_factor, base.vae.config.shift_factor or 0
    mean = (posterior.mean - shift) * scale
    torch.testing.assert_close(encode_images(base.vae, images), mean)
    drawn = encode_images(base.vae, images, noise)
    torch.testing.assert_close(drawn - mean, posterior.std * noise * scale)
    decoded = base.vae.decode(mean / scale + shift).sample
    torch.testing.assert_close(decode_latents(base.vae, mean), decoded)


def test_another_first_stage(tiny_base_folder, tmp_path):
    """An `AutoencoderTiny` in place of the base's own, as TAESD for Stable Diffusion."""
    kwargs = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    widths = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    tiny = AutoencoderTiny(**kwargs, **widths, latent_channels=4, scaling_factor=0.5)
    tiny.save_pretrained(tmp_path / "taesd")
    base = load_base(str(tiny_base_folder), None, str(tmp_path / "taesd"))
    images = torch.zeros(1, 3, 32, 32)
    expected = base.vae.encode(images).latents * 0.5
    assert torch.equal(base.encode(images, torch.ones_like(expected)), expected)
    assert base.encode(images).shape == (1, 4, 8, 8)


def test_hash_changes_with_any_weight(base):
    before = base.sha256()
    seen = {before}
    with torch.no_grad():
        for parameter in [*base.unet.parameters()][::40] + [*base.text_encoder.parameters()][::9]:
            kept = parameter.flatten()[-1].clone()
            parameter.view(-1)[-1] += 1e-3
            seen.add(base.sha256())
            parameter.view(-1)[-1] = kept
    assert len(seen) > 5
    assert base.sha256() == before
    assert len(seen) == 1 + len([*base.unet.parameters()][::40]) + len(
        [*base.text_encoder.parameters()][::9]
    )


def test_the_encoders_hash_is_that_of_what_makes_moments(tiny_base_folder):
    """Bases of one first stage share a cache: the UNet, the decoder and half precision change
    nothing that it holds."""
    base = load_base(str(tiny_base_folder))
    before = base.encoder_sha256()
    with torch.no_grad():
        for other in (base.unet, base.text_encoder, base.vae.decoder, base.vae.post_quant_conv):
            next(other.parameters()).add_(1)
        base.half()
        assert base.encoder_sha256() == before
        for own in (base.vae.encoder, base.vae.quant_conv):
            next(own.parameters()).add_(1)
            before, changed = base.encoder_sha256(), before
            assert before != changed


def test_hash_sees_names_and_shapes_but_not_the_precision():
    layer = torch.nn.Linear(2, 3, bias=False)
    layer.weight.data = torch.arange(6.0).reshape(3, 2) / 4  # exact in half precision
    half = torch.nn.Linear(2, 3, bias=False).half()
    half.weight.data = layer.weight.data.half()
    assert weights_sha256(layer) == weights_sha256(half)
    other = torch.nn.Linear(3, 2, bias=False)
    other.weight.data = layer.weight.data.reshape(2, 3)
    assert weights_sha256(layer) != weights_sha256(other)
    assert weights_sha256(layer) != weights_sha256(torch.nn.Sequential(layer))


def test_folders_in_the_form_of_the_published_ones_load(tmp_path):
    """Stable Diffusion 1.5's names of the text encoder and of the first stage's attention, and a
    tokenizer of two lists."""
    base = load_base(str(family_base(tmp_path, "sd15")))
    published_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    (vae,) = (tmp_path / "vae").glob("*.safetensors")
    weights = load_file(vae)
    for new, old in published_names.items():
        weights = {name.replace(f".0.{new}", f".0.{old}"): v for name, v in weights.items()}
    assert sum("proj_attn" in name for name in weights) == 4
    save_file(weights, vae, {"format": "pt"})
    (text,) = (tmp_path / "text_encoder").glob("*.safetensors")
    weights = {f"text_model.{name}": value for name, value in load_file(text).items()}
    save_file(weights, text, {"format": "pt"})
    tokens = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())["model"]
    (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(tokens["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokens["merges"]]
    (tmp_path / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (tmp_path / "tokenizer/tokenizer.json").unlink()
    loaded = load_base(str(tmp_path))
    assert loaded.sha256() == base.sha256()
    prompts = [*CAPTIONS, "", "Two MUGS!"]
    assert loaded.tokenizer(prompts).input_ids == base.tokenizer(prompts).input_ids


@pytest.mark.parametrize("shard", ["10GB", "20KB"], ids=["whole", "in shards"])
def test_a_folder_of_weights_in_half_alone_loads(shard, tmp_path):
    """As `hf download --include "*.fp16.*"` leaves it, in one file or several."""
    whole = family_base(tmp_path / "whole", "sdxl")
    theirs = StableDiffusionXLPipeline.from_pretrained(whole, dtype=torch.float16)
    theirs.save_pretrained(tmp_path / "half", variant="fp16", max_shard_size=shard)
    files = [*(tmp_path / "half/unet").glob("*.fp16*.safetensors")]
    assert (len(files) == 1) == (shard == "10GB")
    base = load_base(str(tmp_path / "half"))
    expected = theirs.unet.float().state_dict()
    assert all(torch.equal(v, expected[name]) for name, v in base.unet.state_dict().items())
    assert base.text_encoder.dtype == base.vae.dtype == torch.float32
    assert load_model(str(tmp_path / "half"), "fp32", "cpu").pipeline.unet.dtype == torch.float32


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_frozen_unet_predicts_in_its_own_dtype_whatever_autocast_says(family, tmp_path):
    """Also with residuals, through which gradients go on; one that is trained is left to it."""
    whole = load_base(str(family_base(tmp_path / "base", family)))
    arguments = whole.text(["a red mug"]).network_arguments(
        torch.tensor([[64, 64, 0, 0, 64, 64]]) if whole.is_xl else None
    )
    noisy, steps = torch.randn(1, 4, 8, 8), torch.tensor([500])
    fim, hint = moved_fim(whole), torch.rand(1, 5, 64, 64)
    down, middle = fim(noisy, steps, controlnet_cond=hint, return_dict=False, **arguments)
    middle = middle.requires_grad_(True)
    arguments["down_block_additional_residuals"] = down
    arguments["mid_block_additional_residual"] = middle
    expected = whole.unet(noisy, steps, **arguments).sample
    assert torch.equal(whole.predict(noisy, steps, **arguments), expected)
    with torch.autocast("cpu", torch.bfloat16):
        frozen = whole.predict(noisy, steps, **arguments)
        assert torch.equal(frozen, expected)  # stored in float32
        trained = whole.unet.requires_grad_(True)
        assert whole.predict(noisy, steps, **arguments).dtype is torch.bfloat16
        trained.requires_grad_(False)
        whole.store_frozen(torch.bfloat16)
        half = whole.predict(noisy, steps, **arguments)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0.05)
    half.float().square().sum().backward()
    assert middle.grad is not None
    assert middle.grad.abs().max() > 0
