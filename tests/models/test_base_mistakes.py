"""One clear line for each way in which a base cannot be loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from anyscene.errors import InputError
from anyscene.models.loading import fake_base, load_base

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


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


@pytest.mark.parametrize(
    "setting",
    [{"time_cond_proj_dim": 8}, {"num_class_embeds": 4}, {"class_embed_type": "timestep"}],
)
def test_a_unet_that_takes_another_condition_is_refused(setting, broken):
    """One distilled as LCM ran without its guidance scale, as another model."""
    unet = UNet2DConditionModel.from_pretrained(broken / "unet")
    other: Any = UNet2DConditionModel.from_config({**unet.config, **setting})
    other.save_pretrained(broken / "unet")
    ((name, value),) = setting.items()
    assert f"its UNet has {name}={value!r}, a condition" in refusal(broken)


def test_a_folder_has_no_revision(tiny_base_folder):
    """It was ignored, and yet recorded as what a run was trained on."""
    line = refusal(tiny_base_folder, "v2")
    assert line.startswith("base.revision='v2' is of a hub id, but base.path=")


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
    assert "unet has its weights as pickles (.bin) alone" in refusal(broken)


def test_text_encoder_of_another_model(broken):
    own = CLIPTextConfig.from_pretrained(broken / "text_encoder").to_dict()
    config = CLIPTextConfig(**{**own, "hidden_size": 32})
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


def test_a_first_stage_that_is_none_is_named(tiny_base_folder, tmp_path):
    assert "base.first_stage" in refusal(tiny_base_folder, None, str(tmp_path / "nowhere"))
    own = tiny_base_folder / "vae"
    for load in (load_base, fake_base):
        with pytest.raises(
            InputError, match=f"^base.first_stage='{own}' has the class AutoencoderKL"
        ):
            load(str(tiny_base_folder), None, str(own))
