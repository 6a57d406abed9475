"""Sampling against the stock diffusers pipelines of the same parts."""

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline
from sampling import PROMPTS, STOCHASTIC, foregrounds, generators, moved_fim, quiet

from anyscene.compositing.hint import make_hint
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline

SCHEDULERS = ("DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler")


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path):
    return load_base(str(tiny_base_folder))


@pytest.fixture(scope="module")
def fim(base):
    return moved_fim(base)


@pytest.fixture
def pipeline(base, fim) -> AnyScenePipeline:
    return quiet(AnyScenePipeline(**base.components(), controlnet=fim))


def stock(kind, base, scheduler="DDIMScheduler", **parts):
    """A stock pipeline of the same parts."""
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = quiet(kind(**base.components() | parts, **none))
    theirs.scheduler = getattr(diffusers, scheduler).from_config(base.scheduler.config)
    return theirs


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, STOCHASTIC])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_same_image_as_the_stock_controlnet_pipeline(scheduler, guidance, pipeline, base, fim):
    theirs = stock(StableDiffusionControlNetPipeline, base, scheduler, controlnet=fim)
    pipeline.scheduler = theirs.scheduler
    rgb, mask = foregrounds()
    options = {
        "num_inference_steps": 4,
        "guidance_scale": guidance,
        "negative_prompt": ["cool light from the right", ""],
        "output_type": "pt",
    }
    expected = theirs(PROMPTS, make_hint(rgb, mask), generator=generators(), **options).images
    images = pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    without = pipeline(PROMPTS, height=64, width=64, generator=generators(), **options).images
    assert (without - expected).abs().max() > 0.02  # the FIM matters here


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_text_only_is_the_stock_text_to_image(scheduler, guidance, base):
    theirs = stock(StableDiffusionPipeline, base, scheduler)
    ours = quiet(AnyScenePipeline(**base.components()))
    ours.scheduler = theirs.scheduler
    options = {"num_inference_steps": 4, "guidance_scale": guidance, "output_type": "pt"}
    expected = theirs(PROMPTS, generator=generators(), **options).images
    images = ours(PROMPTS, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_other_sizes_and_images_per_prompt(pipeline, base, fim):
    theirs = stock(StableDiffusionControlNetPipeline, base, controlnet=fim)
    rgb, mask = foregrounds(1, height=40, width=56)
    options = {"num_inference_steps": 2, "num_images_per_prompt": 3, "output_type": "pt"}
    hint = make_hint(rgb, mask)
    expected = theirs(PROMPTS[0], hint, generator=generators(3), **options).images
    images = pipeline(PROMPTS[0], rgb, mask, generator=generators(3), **options).images
    assert images.shape == (3, 3, 40, 56)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_pil_images_are_the_rounded_tensors(pipeline):
    rgb, mask = foregrounds(1)
    options = {"num_inference_steps": 2, "blend": "alpha"}
    pil = pipeline(PROMPTS[:1], rgb, mask, generator=generators(1), **options)
    tensors = pipeline(PROMPTS[:1], rgb, mask, generator=generators(1), output_type="pt", **options)
    for images, values in ((pil.images, tensors.images), (pil.raw_images, tensors.raw_images)):
        level = torch.tensor(list(images[0].tobytes())).reshape(64, 64, 3).permute(2, 0, 1)
        assert torch.equal(level, (values[0] * 255).round().long())
    assert pil.images[0].tobytes() != pil.raw_images[0].tobytes()


def test_saved_and_loaded_it_samples_the_same(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = quiet(AnyScenePipeline.from_pretrained(tmp_path))
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 2, "output_type": "pt"}
    first, second = (
        pipe(PROMPTS, rgb, mask, generator=generators(), **options).images
        for pipe in (pipeline, again)
    )
    assert torch.equal(first, second)
