"""Layout control while sampling, with a base of every family and that of the demo."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from families import FAMILIES, family_base
from sampling import PROMPTS, foregrounds, generators, moved_fim, quiet
from tiny import tiny_base
from torch import Tensor

from anyscene.errors import InputError
from anyscene.layout_settings import MECHANISMS, LayoutControl
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline

ALL = LayoutControl(attention=4, residual_gate=1, known_latent=1)


@pytest.fixture(scope="module", params=[*FAMILIES, "demo"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AnyScenePipeline:
    folder = tmp_path_factory.mktemp("layout") / request.param
    base = load_base(
        str(tiny_base(folder) if request.param == "demo" else family_base(folder, request.param))
    )
    fim = moved_fim(base)
    for layer in [*fim.controlnet_down_blocks, fim.controlnet_mid_block]:
        layer.weight *= 3  # random bases hardly react otherwise
    return quiet(AnyScenePipeline(**base.components(), controlnet=fim))


def sample(pipeline: AnyScenePipeline, layout: LayoutControl | None, **options: Any) -> Tensor:
    rgb, mask = foregrounds()
    arguments: dict[str, Any] = {"mask": mask, "num_inference_steps": 4, "guidance_scale": 3.0}
    arguments |= options
    output = pipeline(
        PROMPTS, rgb, layout=layout, generator=generators(), output_type="latent", **arguments
    )
    return torch.as_tensor(output.images)


def test_layout_at_strength_zero_is_the_plain_model_bit_for_bit(pipeline: AnyScenePipeline):
    plain = sample(pipeline, None)
    assert torch.equal(sample(pipeline, LayoutControl()), plain)
    out_of_reach = LayoutControl(4, 0, 0.1, 1, 0, 0.1, 1, 0, 0.1)  # a first step is longer
    assert torch.equal(sample(pipeline, out_of_reach), plain)


def test_each_mechanism_and_all_of_them_change_the_scene(pipeline: AnyScenePipeline):
    plain = sample(pipeline, None)
    before = dict(pipeline.unet.attn_processors)
    changed = [plain, sample(pipeline, ALL)]
    for name in MECHANISMS:
        changed.append(sample(pipeline, LayoutControl(**{name: 1.0})))
        weaker = sample(pipeline, LayoutControl(**{name: 0.25}))
        assert (weaker - plain).norm() < (changed[-1] - plain).norm()
    for number, one in enumerate(changed):
        assert one.isfinite().all()
        for other in changed[:number]:
            assert (one - other).abs().max() > 1e-5
    assert pipeline.unet.attn_processors == before


def test_a_gate_without_foreground_is_the_base_and_over_all_is_the_fim(pipeline: AnyScenePipeline):
    gate = LayoutControl(residual_gate=1)
    empty, full = torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64)
    assert torch.equal(
        sample(pipeline, gate, mask=empty),
        sample(pipeline, None, mask=empty, controlnet_conditioning_scale=0.0),
    )
    assert torch.equal(sample(pipeline, gate, mask=full), sample(pipeline, None, mask=full))


def test_layout_of_an_image_does_not_depend_on_the_others(pipeline: AnyScenePipeline):
    rgb, mask = foregrounds()
    mask[1] = mask[1].flip(-2)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "layout": ALL}
    together = pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images
    swapped = pipeline(
        PROMPTS[::-1], rgb.flip(0), mask.flip(0), generator=generators()[::-1], **options
    ).images
    assert torch.equal(torch.as_tensor(swapped).flip(0), torch.as_tensor(together))


def test_the_pass_without_foreground_is_without_layout_control(pipeline: AnyScenePipeline):
    """At s_fg = 0 and without text guidance, e0 is all there is: nothing of the layout comes in."""
    scales = {"foreground_guidance_scale": 0.0, "guidance_scale": 1.0}
    layout = LayoutControl(attention=4, residual_gate=1)
    rgb, mask = foregrounds()
    own = [
        torch.as_tensor(
            pipeline(
                ["", ""],
                rgb,
                mask,
                negative_prompt="",
                num_inference_steps=2,
                layout=control,
                generator=generators(),
                output_type="latent",
                **scales,
            ).images
        )
        for control in (None, layout)
    ]
    torch.testing.assert_close(own[0], own[1], atol=1e-4, rtol=1e-4)


def test_impossible_layout_is_refused_by_the_pipeline(pipeline: AnyScenePipeline):
    with pytest.raises(InputError, match="layout: attention=-1 must be between 0"):
        sample(pipeline, LayoutControl(attention=-1))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@torch.no_grad()
def test_known_latents_are_noised_as_the_scheduler_does(tmp_path: Path, scheduler: Any):
    """With a UNet that sees no noise, what is known at the last step comes out."""
    pipeline = AnyScenePipeline.from_pretrained(
        tiny_base(tmp_path / "base", prediction_type="epsilon")
    )
    pipeline.set_progress_bar_config(disable=True)
    for parameter in pipeline.unet.conv_out.parameters():
        parameter.zero_()
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    foreground, mask = torch.full((2, 3, 64, 64), 0.8), torch.ones(2, 1, 64, 64)

    def spread(known: float) -> Tensor:
        """How far two images' last latents are from each other: the noise that is left."""
        seen: list[Tensor] = []
        pipeline(
            ["a mug", "a mug"],
            foreground,
            mask,
            num_inference_steps=100,
            guidance_scale=1.0,
            layout=LayoutControl(known_latent=known, known_latent_end=1.0),
            generator=generators(),
            callback_on_step_end=lambda _p, _i, _t, values: seen.append(values["latents"]) or {},
        )
        return (seen[-1][0] - seen[-1][1]).std()

    assert spread(1.0) < 0.1
    assert spread(0.0) > 1
