"""What sampling promises: seeds, guidance, known latents, refusals."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sampling import PROMPTS, STOCHASTIC, foregrounds, generators, moved_fim, one_step, quiet

from anyscene.compositing.hint import make_hint
from anyscene.config import Blend, SampleConfig
from anyscene.config_method import Hint
from anyscene.layout_settings import LayoutControl
from anyscene.models.base import decode_latents
from anyscene.models.layout_control import keep_mask
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline
from anyscene.sampler import sample_options, sample_scenes


@pytest.fixture(scope="module")
def base(tiny_base_folder: Path):
    return load_base(str(tiny_base_folder))


@pytest.fixture(scope="module")
def fim(base):
    return moved_fim(base)


@pytest.fixture
def pipeline(base, fim) -> AnyScenePipeline:
    return quiet(AnyScenePipeline(**base.components(), controlnet=fim))


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", STOCHASTIC])
def test_an_image_depends_on_its_seed_alone(scheduler, pipeline):
    """Bit for bit, alone (padded) and in any company, place and micro-batch of the same size."""
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    rgb, mask = foregrounds(6)
    prompts, seeds = (PROMPTS * 3), list(range(50, 56))
    options = {"micro_batch": 4, "num_inference_steps": 3, "guidance_scale": 3.0, "blend": "detail"}
    together = sample_scenes(pipeline, prompts, seeds, rgb, mask, **options)
    assert together.images.shape == (6, 3, 64, 64)
    for number in (0, 3, 5):
        own = slice(number, number + 1)
        alone = sample_scenes(pipeline, prompts[own], seeds[own], rgb[own], mask[own], **options)
        assert torch.equal(alone.raw_images[0], together.raw_images[number])
        assert torch.equal(alone.images[0], together.images[number])
    order = [4, 1, 5, 0, 2, 3]
    shuffled = sample_scenes(
        pipeline,
        [prompts[i] for i in order],
        [seeds[i] for i in order],
        rgb[order],
        mask[order],
        **options,
    )
    assert torch.equal(shuffled.images, together.images[order])
    other = sample_scenes(pipeline, prompts[:1], [99], rgb[:1], mask[:1], **options)
    assert not torch.allclose(other.raw_images[0], together.raw_images[0], atol=0.01)


def test_strength_of_the_fim(pipeline):
    alone = one_step(pipeline, *PROMPTS, foreground=False)
    for scale, same in ((0.0, True), (1.0, False)):
        guided = one_step(pipeline, *PROMPTS, controlnet_conditioning_scale=scale)
        assert torch.equal(guided, alone) == same


def test_outside_the_mask_the_foreground_is_not_looked_at(pipeline):
    rgb, mask = foregrounds()
    other = torch.where(mask > 0, rgb, 1 - rgb)
    options = {
        "num_inference_steps": 2,
        "output_type": "pt",
        "layout": LayoutControl(3, residual_gate=1, known_latent=1),
    }
    first, second = (
        pipeline(PROMPTS, canvas, mask, generator=generators(), **options).raw_images
        for canvas in (rgb, other)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize(("share", "kept_steps"), [(1.0, 4), (0.5, 2), (0.0, 0)])
def test_known_latents_are_kept(share, kept_steps, scheduler, pipeline, base, monkeypatch):
    """Under the eroded mask the network sees the foreground's own latents, noised to the step."""
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(base.scheduler.config)
    rgb, mask = foregrounds()
    latents = base.encode((rgb * mask + 0.5 * (1 - mask)) * 2 - 1)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    keep = keep_mask(mask, (16, 16)).expand_as(latents) > 0
    scale_model_input = pipeline.scheduler.scale_model_input
    kept = []

    def note(sample, timestep):
        noised = pipeline.scheduler.add_noise(latents, noise, timestep.reshape(1))
        kept.append(torch.allclose(sample[keep], noised[keep], atol=1e-5))
        return scale_model_input(sample, timestep)

    monkeypatch.setattr(pipeline.scheduler, "scale_model_input", note)
    layout = LayoutControl(known_latent=float(share > 0), known_latent_end=share)
    options = {"num_inference_steps": 4, "latents": noise, "output_type": "pt"}
    image = pipeline(PROMPTS, rgb, mask, layout=layout, **options).images
    assert keep.any()
    # The first step of a zero-terminal-SNR schedule is noise alone, kept or not.
    assert kept[1:] == [step < kept_steps for step in (1, 2, 3)]
    if share == 0:
        plain = pipeline(PROMPTS, rgb, mask, **options).images
        assert torch.equal(image, plain)


def test_latent_hint_samples(base):
    pipeline = quiet(
        AnyScenePipeline(**base.components(), controlnet=moved_fim(base, hint=Hint.latent))
    )
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 2, "output_type": "pt"}
    guided = pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images
    other = pipeline(PROMPTS, rgb.flip(1), mask, generator=generators(), **options).images
    assert guided.shape == (2, 3, 64, 64)
    assert (guided - other).abs().max() > 1e-3


def test_blending_gives_the_foreground_back(pipeline):
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 2, "blend": Blend.detail, "output_type": "pt"}
    output = pipeline(PROMPTS, rgb, mask, generator=generators(), **options)
    inner = F.max_pool2d(1 - mask, 17, 1, 8).expand_as(rgb) == 0
    torch.testing.assert_close(output.images[inner], rgb[inner], atol=1e-3, rtol=0)
    outer = F.max_pool2d(mask, 3, 1, 1).expand_as(rgb) == 0
    torch.testing.assert_close(output.images[outer], output.raw_images[outer])


def test_embeddings_in_the_place_of_prompts(pipeline, base):
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 2, "output_type": "pt"}
    negative = ["cool light", ""]
    expected = pipeline(
        PROMPTS, rgb, mask, negative_prompt=negative, generator=generators(), **options
    ).images
    images = pipeline(
        foreground=rgb,
        mask=mask,
        prompt_embeds=base.text(PROMPTS).hidden,
        negative_prompt_embeds=base.text(negative).hidden,
        generator=generators(),
        **options,
    ).images
    assert torch.equal(images, expected)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.5), (0.5, 1.0), (0.25, 0.75)])
def test_the_fim_acts_in_its_span_as_in_the_stock_pipeline(start, end, pipeline, base):
    """Outside the span the residuals are zero: the stock pipeline's control guidance."""
    rgb, mask = foregrounds()
    options = {
        "num_inference_steps": 4,
        "control_guidance_start": start,
        "control_guidance_end": end,
        "output_type": "pt",
    }
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = quiet(
        diffusers.StableDiffusionControlNetPipeline(
            **base.components(), controlnet=pipeline.controlnet, **none
        )
    )
    hint = make_hint(rgb, mask)
    expected = theirs(PROMPTS, hint, generator=generators(), **options).images
    images = pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    always = options | {"control_guidance_start": 0.0, "control_guidance_end": 1.0}
    other = pipeline(PROMPTS, rgb, mask, generator=generators(), **always).images
    assert (images - other).abs().max() > 1e-3


def test_rescaled_guidance_is_the_stock_one(base):
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    theirs = quiet(diffusers.StableDiffusionPipeline(**base.components(), **none))
    ours = quiet(AnyScenePipeline(**base.components()))
    options = {"num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "pt"}
    expected = theirs(PROMPTS, generator=generators(), guidance_rescale=0.7, **options).images
    images = ours(PROMPTS, generator=generators(), guidance_rescale=0.7, **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert (ours(PROMPTS, generator=generators(), **options).images - images).abs().max() > 1e-3


def test_latents_are_what_the_images_are_decoded_from(pipeline, base):
    rgb, mask = foregrounds()
    options = {"num_inference_steps": 2}
    pair = [
        pipeline(PROMPTS, rgb, mask, generator=generators(), output_type=kind, **options).images
        for kind in ("latent", "pt")
    ]
    decoded = (decode_latents(base.vae, pair[0]) / 2 + 0.5).clamp(0, 1)
    assert torch.equal(decoded, pair[1])


def test_arguments_of_a_configuration():
    config = SampleConfig(steps=3, guidance_scale=2.0, foreground_guidance_scale=1.5, blend_k=0.5)
    options = sample_options(config)
    assert (options["num_inference_steps"], options["guidance_scale"]) == (3, 2.0)
    assert (options["foreground_guidance_scale"], options["blend_k"]) == (1.5, 0.5)


def test_outputs_in_each_form_are_the_same_images(pipeline):
    rgb, mask = foregrounds()
    pil, pt, array = (
        pipeline(
            PROMPTS,
            rgb,
            mask,
            negative_prompt=None,
            generator=generators(),
            num_inference_steps=1,
            output_type=kind,
        ).images
        for kind in ("pil", "pt", "np")
    )
    np.testing.assert_array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(np.stack([np.array(one) for one in pil]), (array * 255).round())


def test_a_callback_may_replace_the_latents(pipeline):
    rgb, mask = foregrounds()

    def zero(_pipeline, index, _timestep, values):
        return {"latents": values["latents"] * 0} if index == 1 else None

    options = {"num_inference_steps": 2, "output_type": "pt"}
    images = pipeline(
        PROMPTS, rgb, mask, generator=generators(), callback_on_step_end=zero, **options
    ).images
    assert torch.equal(images[0], images[1])
