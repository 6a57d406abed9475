"""Each family of bases through the whole chain: train, resume, export, stock pipeline, ours."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from families import FAMILIES, family_base
from sampling import PROMPTS, foregrounds, generators, quiet
from tiny import tiny_config
from training import Run, assert_same_training_state, contents

from anyscene.compositing.hint import make_hint
from anyscene.config_method import FimConfig
from anyscene.errors import InputError
from anyscene.export import export
from anyscene.models.base import decode_latents, encode_images
from anyscene.models.injection import build_fim
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline
from anyscene.train import train

STOCK: dict[str, Any] = {"sdxl": StableDiffusionXLControlNetPipeline}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("family") / family, family)


@pytest.fixture(scope="module")
def run(folder: Path, demo_shards: Path) -> Path:
    """Three steps and a validation."""
    config = tiny_config(folder, demo_shards, folder.parent / "runs", "train.checkpoint_every=2")
    return train(config)


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    return export(run, run.parent / "export")


def options_of(family: str) -> dict[str, Any]:
    return {
        "num_inference_steps": 3,
        "guidance_scale": 4.0,
        "output_type": "pt",
    } | ({} if family == "sdxl" else {"negative_prompt": ["", ""]})


def test_an_export_gives_the_stock_image_of_its_family(family: str, exported: Path) -> None:
    kind = STOCK.get(family, StableDiffusionControlNetPipeline)
    more = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
    theirs = quiet(kind.from_pretrained(exported, **more))
    ours = quiet(AnyScenePipeline.from_pretrained(exported))
    rgb, mask = foregrounds()
    options = options_of(family)
    hint = make_hint(rgb, mask)
    expected = theirs(PROMPTS, image=hint, generator=generators(), **options).images
    options.pop("negative_prompt", None)
    images = ours(PROMPTS, rgb, mask, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    plain = ours(PROMPTS, height=64, width=64, generator=generators(), **options).images
    assert (plain - images).abs().max() > 1e-3  # three steps have moved the FIM


def test_a_second_controlnet_beside_the_fim(family: str, exported: Path) -> None:
    """In the stock pipeline, as README and model card say: their residuals add up."""
    kind = STOCK.get(family, StableDiffusionControlNetPipeline)
    more = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
    alone = quiet(kind.from_pretrained(exported, **more))
    options = {**options_of(family), "num_inference_steps": 2}
    hint = make_hint(*foregrounds())
    two = MultiControlNetModel([alone.controlnet, alone.controlnet])
    both = quiet(kind.from_pretrained(exported, controlnet=two, **more))
    scales = {"image": [hint, hint], "controlnet_conditioning_scale": [0.75, 0.25]}
    expected = alone(PROMPTS, image=hint, generator=generators(), **options).images
    images = both(PROMPTS, generator=generators(), **scales, **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    scales["controlnet_conditioning_scale"] = [0.75, 0.75]
    other = both(PROMPTS, generator=generators(), **scales, **options).images
    assert (other - expected).abs().max() > 1e-3


def test_resume_of_each_family_is_exact(run: Path, folder: Path, demo_shards: Path) -> None:
    whole = Run(run)
    config = tiny_config(folder, demo_shards, folder.parent / "again", "train.steps=2")
    resumed = Run(train(config))
    config = tiny_config(folder, demo_shards, folder.parent / "again")
    train(config)
    assert_same_training_state(resumed.state(3), whole.state(3))


def test_a_new_fim_of_each_family_changes_nothing(family: str, folder: Path) -> None:
    base = load_base(str(folder))
    fim = build_fim(FimConfig(), base, seed=0)
    rgb, mask = foregrounds()
    options = options_of(family)
    with_fim = quiet(AnyScenePipeline(**base.components(), controlnet=fim))
    without = quiet(AnyScenePipeline(**base.components()))
    guided = with_fim(PROMPTS, rgb, mask, generator=generators(), **options).images
    plain = without(PROMPTS, height=64, width=64, generator=generators(), **options).images
    assert torch.equal(guided, plain)


def test_an_export_of_each_family_is_complete(family: str, exported: Path) -> None:
    base = load_base(str(exported))
    assert base.is_xl == (family == "sdxl")
    assert base.scheduler.config.prediction_type == (
        "v_prediction" if family == "sd21-v" else "epsilon"
    )
    names = {name.split("/")[0] for name in contents(exported)}
    assert ("text_encoder_2" in names) == (family == "sdxl")


def test_first_stages_that_overflow_in_half_precision_work_in_float32(
    family: str, folder: Path
) -> None:
    """SDXL's says that it does (`force_upcast`)."""
    base, rounded = load_base(str(folder)), load_base(str(folder))
    base.vae.half()
    rounded.vae.half().float()
    upcast = family == "sdxl"
    base.vae.register_to_config(force_upcast=upcast)
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    latents, exact = encode_images(base.vae, images), encode_images(rounded.vae, images)
    assert base.vae.dtype == torch.float16
    assert torch.equal(latents, exact) == upcast
    decoded, exact = decode_latents(base.vae, exact), decode_latents(rounded.vae, exact)
    assert torch.equal(decoded, exact) == upcast


def test_first_stages_with_means_scale_as_the_stock_pipeline(family: str, folder: Path) -> None:
    """`latents_mean` and `latents_std`, as some SDXL first stages have them."""
    if family != "sdxl":
        pytest.skip("only SDXL first stages have them")
    base = load_base(str(folder))
    base.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    none = {"add_watermarker": False}
    theirs = quiet(StableDiffusionXLPipeline(**base.components(), **none))
    ours = quiet(AnyScenePipeline(**base.components()))
    options = options_of("sdxl") | {"height": 64, "width": 64}
    expected = theirs(PROMPTS, generator=generators(), **options).images
    images = ours(PROMPTS, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    back = encode_images(base.vae, torch.zeros(1, 3, 64, 64))
    raw = base.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    mean = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(1, 4, 1, 1)
    std = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(back, (raw - mean) / std * base.vae.config.scaling_factor)


def test_the_empty_prompt_is_the_folder_s_own(family: str, folder: Path, tmp_path: Path) -> None:
    """SDXL's folder says that it is zeros, or by `force_zeros_for_empty_prompt` that it is not."""
    empty = load_base(str(folder)).text(["", PROMPTS[0]])
    assert bool((empty.hidden[0] == 0).all()) == (family == "sdxl")
    assert empty.hidden[1].any()
    if family != "sdxl":
        return
    other = Path(shutil.copytree(folder, tmp_path / "base"))
    index = json.loads((other / "model_index.json").read_text())
    assert index["force_zeros_for_empty_prompt"]
    changed = {**index, "force_zeros_for_empty_prompt": False}
    (other / "model_index.json").write_text(json.dumps(changed))
    encoded = load_base(str(other)).text([""])
    assert empty.pooled is not None
    assert encoded.pooled is not None
    assert not empty.pooled[0].any()
    assert encoded.hidden.any()
    assert encoded.pooled.any()


def test_a_folder_that_says_nothing_of_the_empty_prompt(
    family: str, folder: Path, tmp_path: Path
) -> None:
    """It is the stock pipeline's: zeros in SDXL, from a folder and from parts."""
    if family != "sdxl":
        pytest.skip("only SDXL has two conventions")
    silent = Path(shutil.copytree(folder, tmp_path / "base"))
    index = json.loads((silent / "model_index.json").read_text())
    del index["force_zeros_for_empty_prompt"]
    (silent / "model_index.json").write_text(json.dumps(index))
    theirs = quiet(StableDiffusionXLPipeline.from_pretrained(silent, add_watermarker=False))
    parts = {name: part for name, part in theirs.components.items() if part is not None}
    options = options_of(family) | {"height": 64, "width": 64}
    expected = theirs(PROMPTS, generator=generators(), **options).images
    for ours in (AnyScenePipeline.from_pretrained(silent), AnyScenePipeline(**parts)):
        images = quiet(ours)(PROMPTS, generator=generators(), **options).images
        torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_embeddings_of_sdxl_need_their_pooled_part(family: str, folder: Path) -> None:
    base = load_base(str(folder))
    ours = quiet(AnyScenePipeline(**base.components()))
    text = base.text(PROMPTS)
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "pt"}
    expected = ours(PROMPTS, generator=generators(), **options).images
    given = {"prompt_embeds": text.hidden, "pooled_prompt_embeds": text.pooled}
    assert torch.equal(ours(generator=generators(), **given, **options).images, expected)
    if family == "sdxl":
        with pytest.raises(InputError, match="needs pooled embeddings beside it"):
            ours(prompt_embeds=text.hidden, **options)
