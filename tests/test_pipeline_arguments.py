"""What users of diffusers expect of a pipeline: schedulers, LoRA, offloading, the VAE's savings."""

import copy
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from families import family_base
from sampling import PROMPTS, foregrounds, generators, moved_fim, quiet
from torch import Tensor

from anyscene.compositing.hint import make_hint
from anyscene.layout_settings import LayoutControl
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline

NONE: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}
SCHEDULERS = (
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("arguments") / "sd15", "sd15")


@pytest.fixture
def pipeline(folder: Path) -> AnyScenePipeline:
    base = load_base(str(folder))
    return quiet(AnyScenePipeline(**base.components(), controlnet=moved_fim(base)))


def stock(pipeline: AnyScenePipeline, **parts: Any) -> StableDiffusionControlNetPipeline:
    components = {
        name: part
        for name, part in pipeline.components.items()
        if name not in ("text_encoder_2", "tokenizer_2")
    }
    return quiet(StableDiffusionControlNetPipeline(**components | parts, **NONE))


def ours(pipeline: AnyScenePipeline, **options: Any) -> Tensor:
    rgb, mask = foregrounds()
    arguments: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"} | options
    return torch.as_tensor(pipeline(PROMPTS, rgb, mask, generator=generators(), **arguments).images)


def test_a_tuple_instead_of_an_output_has_both_images(pipeline: AnyScenePipeline):
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "blend": "alpha"}

    def call(**more: Any) -> Any:
        return pipeline(PROMPTS, *foregrounds(), generator=generators(), **options, **more)

    images, raw = call(return_dict=False)
    assert torch.equal(images, call().images)
    assert torch.equal(raw, call().raw_images)
    assert not torch.equal(images, raw)


def test_a_callback_ends_sampling_as_in_diffusers(pipeline: AnyScenePipeline):
    """By `_interrupt`; the next call is whole again."""
    seen: list[int] = []

    def stop(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        pipe._interrupt = step == 1
        return values

    whole = ours(pipeline)
    images = ours(pipeline, callback_on_step_end=stop)
    assert seen == [0, 1]
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}
    hint = make_hint(*foregrounds())
    options |= {"generator": generators(), "callback_on_step_end": stop}
    expected = stock(pipeline)(PROMPTS, hint, **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    assert torch.equal(ours(pipeline), whole)


def test_eta_of_ddim_is_that_of_diffusers(pipeline: AnyScenePipeline):
    options: dict[str, Any] = {"eta": 0.7, "num_inference_steps": 4, "output_type": "pt"}
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    images = ours(pipeline, **options)
    hint = make_hint(*foregrounds())
    expected = stock(pipeline)(PROMPTS, hint, generator=generators(), **options).images
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_any_scheduler_gives_the_stock_image_and_takes_layout_control(
    scheduler: str, pipeline: AnyScenePipeline
):
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    theirs = stock(pipeline)
    options: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "pt"}
    hint = make_hint(*foregrounds())
    expected = theirs(PROMPTS, hint, generator=generators(), **options).images
    images = ours(pipeline, **options)
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)
    kept = ours(pipeline, layout=LayoutControl(attention=4, known_latent=1), **options)
    assert kept.isfinite().all()
    assert (kept - images).abs().max() > 1e-3


def some_lora(network: Any, targets: list[str]) -> dict[str, Tensor]:
    """Random LoRA weights of a network, as diffusers saves them."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=targets), "made")
    generator = torch.Generator().manual_seed(5)
    state = {
        name: 0.5 * torch.randn(weight.shape, generator=generator)
        for name, weight in get_peft_model_state_dict(
            network, adapter_name="made", save_embedding_layers=False
        ).items()
    }
    return convert_state_dict_to_diffusers(state)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_lora_is_loaded_and_unloaded_as_in_diffusers(family: str, tmp_path: Path):
    base_folder = family_base(tmp_path / "base", family)
    kind: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    more = {} if family == "sdxl" else NONE
    donor = load_base(str(base_folder))
    layers = {"unet_lora_layers": some_lora(donor.unet, ["to_q", "to_v"])}
    encoders = donor.components()
    layers["text_encoder_lora_layers"] = some_lora(encoders["text_encoder"], ["q_proj"])
    if family == "sdxl":
        layers["text_encoder_2_lora_layers"] = some_lora(encoders["text_encoder_2"], ["v_proj"])
    kind.save_lora_weights(tmp_path / "lora", **layers)

    pipeline = quiet(AnyScenePipeline.from_pretrained(base_folder))
    theirs = quiet(kind.from_pretrained(base_folder, **more))
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}
    options |= {"height": 64, "width": 64}

    def image(model: Any) -> Tensor:
        return torch.as_tensor(model(PROMPTS, generator=generators(), **options).images)

    plain = image(pipeline)
    for model in (pipeline, theirs):
        model.load_lora_weights(tmp_path / "lora")
    changed = image(pipeline)
    assert (changed - plain).abs().max() > 1e-3
    torch.testing.assert_close(changed, image(theirs), atol=1e-4, rtol=0)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(image(pipeline), plain, atol=1e-5, rtol=0)


def test_layout_control_keeps_lora(pipeline: AnyScenePipeline):
    layout = LayoutControl(attention=1e-6, attention_end=1.0)  # all but off, through our processor
    lora = some_lora(copy.deepcopy(pipeline.unet), ["to_q", "to_k", "to_v", "to_out.0"])
    pipeline.unet.load_lora_adapter(lora, prefix=None)
    with_lora = ours(pipeline)
    torch.testing.assert_close(ours(pipeline, layout=layout), with_lora, atol=1e-4, rtol=0)
    pipeline.unet.unload_lora()
    assert (ours(pipeline) - with_lora).abs().max() > 1e-3


def test_model_offloading_changes_nothing(pipeline: AnyScenePipeline):
    """Its hooks, on the CPU: their order, moves and end; no memory is saved there."""
    layout = LayoutControl(attention=4, residual_gate=0.5, known_latent=1)
    plain = ours(pipeline, layout=layout)
    pipeline.enable_model_cpu_offload(device="cpu")
    hooked = [name for name, part in pipeline.components.items() if hasattr(part, "_hf_hook")]
    assert set(hooked) == {"text_encoder", "unet", "vae", "controlnet"}
    assert torch.equal(ours(pipeline, layout=layout), plain)
    assert torch.equal(ours(pipeline, layout=layout), plain)  # hooks are in place again


@pytest.mark.parametrize("name", ["text_encoder", "vae"])
def test_where_weights_are_offloaded_to_does_not_matter(
    name: str, pipeline: AnyScenePipeline, monkeypatch: Any
):
    """`enable_sequential_cpu_offload` leaves them on `meta` between two calls; without a GPU it
    works in no pipeline, so here they only say so."""
    plain = ours(pipeline)
    kind = type(getattr(pipeline, name))
    monkeypatch.setattr(kind, "device", property(lambda _: torch.device("meta")))
    execution = property(lambda _: torch.device("cpu"))
    monkeypatch.setattr(AnyScenePipeline, "_execution_device", execution)
    assert torch.equal(ours(pipeline), plain)


def test_vae_slicing_decodes_one_image_at_a_time(pipeline: AnyScenePipeline, monkeypatch: Any):
    plain = ours(pipeline)
    sizes = []
    decoder = pipeline.vae.decoder.forward

    def note(latents: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(latents))
        return decoder(latents, *rest)

    pipeline.vae.enable_slicing()
    monkeypatch.setattr(pipeline.vae.decoder, "forward", note)
    torch.testing.assert_close(ours(pipeline), plain, atol=1e-5, rtol=0)
    assert sizes == [1, 1]


def test_vae_tiling_is_near_the_whole(pipeline: AnyScenePipeline):
    rgb, mask = foregrounds(2, 128, 128)  # tiles are 64 px here
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    options["layout"] = LayoutControl(known_latent=1)  # which encodes, too

    def image() -> Tensor:
        images = pipeline(PROMPTS, rgb, mask, generator=generators(), **options).images
        return torch.as_tensor(images)

    whole = image()
    pipeline.vae.enable_tiling()
    tiled = image()
    assert not torch.equal(tiled, whole)
    assert (tiled - whole).abs().mean() < 0.1


def test_a_second_controlnet_beside_the_fim_in_the_stock_pipeline(pipeline: AnyScenePipeline):
    """An ordinary ControlNet with three channels; at scale 0 the FIM alone is left."""
    torch.manual_seed(0)
    edges = ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=(8, 8, 8, 8)
    ).eval()
    for layer in [*edges.controlnet_down_blocks, edges.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.3)
    both = stock(pipeline, controlnet=[pipeline.controlnet, edges])
    hints = [make_hint(*foregrounds()), torch.rand(2, 3, 64, 64)]
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}

    def image(scale: float) -> Tensor:
        return both(
            PROMPTS,
            hints,
            controlnet_conditioning_scale=[1.0, scale],
            generator=generators(),
            **options,
        ).images

    torch.testing.assert_close(image(0.0), ours(pipeline), atol=1e-4, rtol=0)
    assert (image(1.0) - image(0.0)).abs().max() > 1e-3
