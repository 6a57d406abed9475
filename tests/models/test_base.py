"""The base: loading it, and one clear line for each way in which it cannot be loaded."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from families import family_base
from safetensors.torch import load_file, save_file
from sampling import moved_fim
from tiny import CAPTIONS, tiny_base
from transformers import CLIPTextConfig, CLIPTextModel

from anyscene.errors import InputError
from anyscene.models.base import (
    Base,
    decode_latents,
    encode_images,
    unet_factor,
    vae_factor,
    weights_sha256,
)
from anyscene.models.loading import fake_base, load_base

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path) -> Base:
    return load_base(str(tiny_base_folder))


@pytest.fixture
def broken(tiny_base_folder: Path, tmp_path: Path) -> Path:
    """A copy of the base for a test to break."""
    return Path(shutil.copytree(tiny_base_folder, tmp_path / "base"))


def refusal(path: Path | str, *options: str | None) -> str:
    """The one line with which a base is refused."""
    with pytest.raises(InputError) as caught:
        load_base(str(path), *options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


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
    assert "base.first_stage" in refusal(tiny_base_folder, None, str(tmp_path / "nowhere"))
    own = tiny_base_folder / "vae"
    for load in (load_base, fake_base):
        with pytest.raises(
            InputError, match=f"^base.first_stage='{own}' has the class AutoencoderKL"
        ):
            load(str(tiny_base_folder), None, str(own))


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


def test_a_part_is_not_a_base(tiny_base_folder):
    line = refusal(tiny_base_folder / "unet")
    assert line.startswith(f"base.path={str(tiny_base_folder / 'unet')!r} has no model_index.json")


@pytest.mark.parametrize(
    "change",
    [
        {"text_encoder_2": ["transformers", "T5EncoderModel"]},
        {"unet": ["diffusers", "UNetMotionModel"]},
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        {"vae": [None, None]},
    ],
)
def test_other_families_are_refused(change, broken):
    change_json(broken / "model_index.json", _class_name="OtherPipeline", **change)
    assert f"is a OtherPipeline with {next(iter(change.values()))[1]} as its " in refusal(broken)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler"])
def test_missing_parts_are_named(part, broken):
    shutil.rmtree(broken / part)
    assert f"not a complete diffusers folder, its {part} cannot be loaded" in refusal(broken)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_part_that_is_cut_off_is_named(part, broken):
    """A download that broke off; transformers has an error of its own for it."""
    (file,) = (broken / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert f"not a complete diffusers folder, its {part} cannot be loaded" in refusal(broken)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_of_other_shapes_take_one_line(part, broken, capfd):
    (file,) = (broken / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name, value in weights.items() if value.ndim == 1)
    weights[name] = torch.zeros(len(weights[name]) + 1)
    save_file(weights, file, {"format": "pt"})
    line = refusal(broken)
    assert f"its {part} " in line
    assert name in line
    assert "ignore_mismatched_sizes" not in line
    assert "MISMATCH" not in capfd.readouterr().err  # transformers' table of it


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("text_encoder/config.json", {"hidden_act": "softer"}),
        ("text_encoder/config.json", {"num_attention_heads": 3}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "steep"}),
        ("model_index.json", {"scheduler": ["diffusers", "SchedulerOfTomorrow"]}),
        ("model_index.json", {"scheduler": None}),
        ("model_index.json", {"unet": None}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_the_libraries_do_not_know_take_one_line(file, change, broken):
    change_json(broken / file, **change)
    assert f"{next(iter(change)) if 'index' in file else Path(file).parent.name}" in refusal(broken)


def test_an_index_without_names_takes_one_line(broken):
    (broken / "model_index.json").write_text("[1]")
    assert "model_index.json holds no names" in refusal(broken)


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


def test_missing_tokenizer(broken):
    shutil.rmtree(broken / "tokenizer")
    assert "the tokenizer is missing or of another model" in refusal(broken)


def test_weights_that_are_not_there_are_not_made_up(broken):
    for file in (UNET_FILE, "text_encoder/model.safetensors"):
        weights = load_file(broken / file)
        lost = sorted(weights)[3]
        save_file({k: v for k, v in weights.items() if k != lost}, broken / file, {"format": "pt"})
        assert f"lacks 1 weights of {'UNet' if 'unet' in file else 'CLIP'}" in refusal(broken)
        assert lost in refusal(broken)
        save_file(weights, broken / file, {"format": "pt"})
    load_base(str(broken))


def test_truncated_weights(broken):
    (broken / UNET_FILE).write_bytes((broken / UNET_FILE).read_bytes()[:5000])
    assert "its unet cannot be loaded" in refusal(broken)


def test_pickled_weights_are_not_loaded(broken):
    torch.save(load_file(broken / UNET_FILE), (broken / UNET_FILE).with_suffix(".bin"))
    (broken / UNET_FILE).unlink()
    assert "its unet cannot be loaded" in refusal(broken)


def test_text_encoder_of_another_model(broken, base):
    config = CLIPTextConfig(**{**base.text_encoder.config.to_dict(), "hidden_size": 32})
    CLIPTextModel(config).save_pretrained(broken / "text_encoder")
    assert "text encoder gives 32 channels but its UNet expects 16" in refusal(broken)


def test_inpainting_unets_are_refused(broken):
    weights = load_file(broken / UNET_FILE)
    weights["conv_in.weight"] = torch.zeros(8, 9, 3, 3)
    save_file(weights, broken / UNET_FILE, {"format": "pt"})
    change_json(broken / "unet/config.json", in_channels=9)
    assert "4 latent channels but the UNet takes 9 (inpainting" in refusal(broken)


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")
def test_hub_id_out_of_reach(monkeypatch, tiny_base_folder):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = refusal("organisation/a-base")
    assert line.startswith("base.path='organisation/a-base' is no folder here")
    assert "`hf download organisation/a-base --local-dir DIR`" in line
    line = refusal(tiny_base_folder, None, "organisation/first-stage")
    assert "set base.first_stage=DIR" in line


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
