"""Each method on tiny bases: against diffusers' own pipelines, and what it must keep."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from families import family_base
from PIL import Image
from tiny_sam import tiny_sam

from anyscene.benchmark.methods import METHODS
from anyscene.benchmark.methods.base import (
    Method,
    MethodSettings,
    SceneJob,
    foregrounds,
    method_class,
    noise_of,
    on_grey,
    pasted,
    stock,
    stock_call,
)
from anyscene.benchmark.methods.inpaint_anything import four_channel_inpainting
from anyscene.benchmark.methods.sam import SamMasks
from anyscene.benchmark.scenes import Benchmark
from anyscene.compositing.blending import eroded_mask
from anyscene.config import SampleConfig
from anyscene.config_method import FimConfig, Hint
from anyscene.errors import InputError
from anyscene.foregrounds import read_foreground
from anyscene.image_jobs import Model, load_model
from anyscene.models.injection import build_fim
from anyscene.models.loading import load_base
from anyscene.scene_list import Scene

PLAIN_METHODS = ("stable_diffusion", "inpaint_anything", "blended_latent", "paste", "known_shadow")


@pytest.fixture(scope="module", params=["sd15", "sd21-v", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny base of a family, with a FIM that its export would have."""
    folder = family_base(tmp_path_factory.mktemp("base") / request.param, request.param)
    return load_model(str(folder), "fp32", "cpu")


@pytest.fixture(scope="module")
def make_jobs(demo_benchmark: Benchmark) -> Callable[..., list[SceneJob]]:
    def make(count: int, micro_batch: int = 2) -> list[SceneJob]:
        jobs = []
        for number, scene in enumerate(demo_benchmark.scenes[:count]):
            canvas = demo_benchmark.folder / scene["canvas"]
            own = Scene(scene["scene_id"], (scene["prompt"],), canvas)
            line = {
                "prompt": scene["prompt"],
                "negative_prompt": "",
                "seed": number,
                "height": 64,
                "width": 64,
                "steps": 3,
                "guidance_scale": 2.0,
                "foreground_guidance_scale": 1.0,
                "layout": None,
                "blend": {"mode": "detail", "k": 1.0},
                "micro_batch": micro_batch,
            }
            foreground = read_foreground(own, (64, 64))
            jobs.append(SceneJob(line, foreground, scene, demo_benchmark.folder))
        return jobs

    return make


def built(name: str, model: Model, tmp_path: Path) -> Method:
    controlnet = None
    if name == "controlnet_canny":
        base = load_base(model.path)
        controlnet = tmp_path / "canny"
        build_fim(FimConfig(hint=Hint.canny), base, 0).save_pretrained(controlnet)
    if name == "anyscene":
        base = load_base(model.path)
        model.pipeline.register_modules(controlnet=build_fim(FimConfig(), base, 0).eval())
    settings = MethodSettings(SampleConfig(steps=3), controlnet=controlnet)
    return method_class(name)(model, settings)


def tensor_of(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as file:
        return torch.from_numpy(np.array(file)).permute(2, 0, 1)


@pytest.mark.parametrize("name", [*PLAIN_METHODS, "controlnet_canny", "anyscene"])
def test_method_makes_an_image_of_each_job_whatever_its_company(
    name: str, model: Model, make_jobs: Callable[..., list[SceneJob]], tmp_path: Path
):
    method = built(name, model, tmp_path)
    jobs = make_jobs(2)
    made = method.make(jobs)
    assert [tensor_of(final).shape for final, _ in made] == [(3, 64, 64)] * 2
    alone = method.make(jobs[1:])  # at another place of the padded call
    assert alone == made[1:]
    fields = method.fields()
    assert {"foreground_guidance_scale", "layout", "blend"} <= fields.keys()
    if name in ("paste", "inpaint_anything", "blended_latent", "known_shadow"):
        own = jobs[0].own
        core = eroded_mask(own.alpha[None], 2)[0, 0]
        kept = tensor_of(made[0][0])[:, core]
        assert core.any()
        assert torch.equal(kept, (own.rgb[:, core] * 255).round().byte())
        assert not torch.equal(tensor_of(made[0][1])[:, core], kept)


def test_methods_begin_with_the_same_noise(model: Model, make_jobs: Callable[..., list[SceneJob]]):
    """Ours and the stock pipeline without any foreground give the same image."""
    jobs = make_jobs(2)
    theirs = stock(model)(**stock_call(model, jobs)).images
    ours = model.pipeline(
        [job.line["prompt"] for job in jobs],
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(job.line["seed"]) for job in jobs],
        output_type="pt",
    ).images
    assert torch.allclose(theirs, torch.as_tensor(ours), atol=1e-4)
    assert noise_of(model, jobs)[0].sub(noise_of(model, jobs)[1]).abs().mean() > 0.5


@torch.no_grad()
def test_four_channel_inpainting_is_that_of_diffusers(
    tmp_path: Path, make_jobs: Callable[..., list[SceneJob]]
):
    """With a first stage whose posterior is narrow: ours takes its mean, diffusers a draw."""
    model = load_model(str(family_base(tmp_path / "sd15", "sd15")), "fp32", "cpu")
    convolution = model.pipeline.vae.quant_conv
    convolution.weight[4:] = 0
    convolution.bias[4:] = -30
    jobs = make_jobs(2)
    rgb, alpha = foregrounds(jobs, "cpu")
    shown = on_grey(rgb, alpha)
    method: Any = method_class("inpaint_anything")(model, MethodSettings(SampleConfig()))
    assert isinstance(method.pipeline, StableDiffusionInpaintPipeline)
    theirs = method.inpaint(jobs, rgb, alpha)
    ours = four_channel_inpainting(model, jobs, shown, alpha)
    plain = stock(model)(**stock_call(model, jobs)).images
    assert (ours - theirs).abs().max() < 1e-3
    assert (ours - plain).abs().max() > 0.02


def test_inpainting_base_of_nine_channels_runs(
    tmp_path: Path, make_jobs: Callable[..., list[SceneJob]]
):
    folder = family_base(tmp_path / "sd15", "sd15")
    config = UNet2DConditionModel.load_config(folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet: Any = UNet2DConditionModel.from_config({**config, "in_channels": 9})
    unet.save_pretrained(folder / "unet")
    model = load_model(str(folder), "fp32", "cpu")
    method = method_class("inpaint_anything")(model, MethodSettings(SampleConfig()))
    assert len(method.make(make_jobs(2))) == 2


def test_base_of_other_latents_is_inpainted_by_our_sampler(
    tiny_base_folder: Path, make_jobs: Callable[..., list[SceneJob]]
):
    model = load_model(str(tiny_base_folder), "fp32", "cpu")
    model.pipeline.unet.register_to_config(in_channels=8)  # as the demo's base has
    method: Any = method_class("inpaint_anything")(model, MethodSettings(SampleConfig()))
    assert method.pipeline is None
    model.pipeline.unet.register_to_config(in_channels=4)
    assert len(method.make(make_jobs(2))) == 2


def test_sam_finds_a_mask_of_each_box(tmp_path: Path):
    sam = SamMasks(tiny_sam(tmp_path))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    masks = sam.from_boxes(image, [(3, 4, 20, 20), (30, 10, 12, 30)])
    assert masks.shape == (2, 48, 64)
    assert masks.dtype == torch.bool
    with pytest.raises(InputError, match=r"--sam .* could not be loaded"):
        SamMasks(tmp_path / "none")


def test_inpaint_anything_with_sam_keeps_what_sam_finds_in_the_real_scene(
    tmp_path: Path, make_jobs: Callable[..., list[SceneJob]]
):
    """The pixels put back are those of the real scene in SAM's mask, not the benchmark's."""
    model = load_model(str(family_base(tmp_path / "sd15", "sd15")), "fp32", "cpu")
    settings = MethodSettings(SampleConfig(), sam=tiny_sam(tmp_path / "sam"))
    method: Any = method_class("inpaint_anything")(model, settings)
    other = SamMasks(settings.sam)
    next(iter(other.model.parameters())).data.add_(1)
    plain, own = model.sha256, method.fields()["model_sha256"]
    method.sam, kept = other, method.sam
    assert len({plain, own, method.fields()["model_sha256"]}) == 3  # a resume tells SAMs apart
    method.sam = kept
    (job,) = make_jobs(1)
    ((final, raw),) = method.make([job])
    with Image.open(job.folder / str(job.scene["real"])) as file:
        real = file.convert("RGB")
    boxes = [element["box_xywh"] for element in job.scene["elements"]]
    mask = method.sam.from_boxes(real, boxes).any(dim=0)
    assert 0.01 < mask.float().mean() < 0.99
    assert not torch.equal(mask, job.own.alpha[0] > 0.5)
    made = tensor_of(raw)
    shown = torch.from_numpy(np.array(real)).permute(2, 0, 1)
    expected = pasted(made[None] / 255, shown[None] / 255, mask[None, None].float())[0] * 255
    assert (tensor_of(final) - expected).abs().max() <= 1.5  # of 255: what is read is rounded
    assert (tensor_of(final) != made)[:, mask].float().mean() > 0.5
    assert torch.equal(tensor_of(final)[:, ~mask], made[:, ~mask])


def is_xl(model: Model) -> bool:
    return model.pipeline.text_encoder_2 is not None


def test_methods_say_what_they_lack(model: Model, tmp_path: Path):
    model.pipeline.register_modules(controlnet=None)
    settings = MethodSettings(SampleConfig())
    with pytest.raises(InputError, match="no Foreground Injection Module"):
        method_class("anyscene")(model, settings)
    with pytest.raises(InputError, match="needs --controlnet"):
        method_class("controlnet_canny")(model, settings)
    build_fim(FimConfig(), load_base(model.path), 0).save_pretrained(tmp_path / "fim")
    with pytest.raises(InputError, match="takes 5 channels"):
        method_class("controlnet_canny")(
            model, MethodSettings(SampleConfig(), controlnet=tmp_path / "fim")
        )
    other = load_base(str(family_base(tmp_path / "base", "sd15" if is_xl(model) else "sdxl")))
    build_fim(FimConfig(hint=Hint.canny), other, 0).save_pretrained(tmp_path / "other")
    settings = MethodSettings(SampleConfig(), controlnet=tmp_path / "other")
    with pytest.raises(InputError, match=r"other has cross_attention_dim=.* on another base$"):
        method_class("controlnet_canny")(model, settings)


def test_every_registered_method_has_a_file_of_its_own():
    modules = [text.partition(":")[0] for text in METHODS.values()]
    assert len(set(modules)) == len(modules)
    for name in METHODS:
        assert {"fields", "make"} <= set(dir(method_class(name)))
