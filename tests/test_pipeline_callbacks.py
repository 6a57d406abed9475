"""Callbacks, empty and long texts, and embeddings alone, against the stock pipelines."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
)
from diffusers.callbacks import (
    MultiPipelineCallbacks,
    SDCFGCutoffCallback,
    SDXLControlnetCFGCutoffCallback,
)
from families import family_base
from sampling import PROMPTS, foregrounds, generators, moved_fim, quiet
from torch import Tensor

from anyscene.compositing.hint import make_hint
from anyscene.errors import InputError
from anyscene.models.loading import load_base
from anyscene.pipeline import AnyScenePipeline
from anyscene.pipeline_inputs import tell_unread

FAMILIES = ("sd15", "sdxl")
OPTIONS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 6.0, "output_type": "pt"}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("callbacks") / request.param, request.param)


@pytest.fixture(scope="module")
def parts(folder: Path) -> dict[str, Any]:
    base = load_base(str(folder))
    return {**base.components(), "controlnet": moved_fim(base)}


@pytest.fixture
def ours(parts: dict[str, Any]) -> AnyScenePipeline:
    return quiet(AnyScenePipeline(**parts))


@pytest.fixture
def theirs(parts: dict[str, Any]) -> Any:
    if "text_encoder_2" in parts:
        return quiet(StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False))
    none: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    none["requires_safety_checker"] = False
    return quiet(StableDiffusionControlNetPipeline(**parts, **none))


def own_images(pipeline: AnyScenePipeline, count: int = 2, **options: Any) -> Tensor:
    texts = {} if "prompt_embeds" in options else {"prompt": PROMPTS[:count]}
    shown = dict(zip(("foreground", "mask"), foregrounds(count), strict=True))
    arguments = {**OPTIONS, **texts, **shown, **options}
    return torch.as_tensor(pipeline(generator=generators(count), **arguments).images)


def stock_images(pipeline: Any, count: int = 2, **options: Any) -> Tensor:
    hint = make_hint(*foregrounds(count))
    arguments = {**OPTIONS, "image": hint, "generator": generators(count), **options}
    return torch.as_tensor(pipeline(PROMPTS[:count], **arguments).images)


def assert_same(images: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def without_guidance(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict:
    """Text guidance ends after half of the steps, for batches of any size."""
    if step == pipe.num_timesteps // 2 - 1:
        assert pipe.guidance_scale == OPTIONS["guidance_scale"]
        pipe._guidance_scale = 1.0
        return {name: rows.chunk(2)[-1] for name, rows in values.items()}
    return values


def test_a_callback_that_ends_guidance_is_obeyed_as_in_the_stock_pipeline(ours: Any, theirs: Any):
    names = ["prompt_embeds", "image"]
    if ours.text_encoder_2 is not None:
        names += ["add_text_embeds", "add_time_ids"]
    options: dict[str, Any] = {
        "callback_on_step_end": without_guidance,
        "callback_on_step_end_tensor_inputs": names,
    }
    images = own_images(ours, **options)
    assert_same(images, stock_images(theirs, **options))
    plain = own_images(ours)
    assert (images - plain).abs().max() > 1e-3
    assert torch.equal(own_images(ours), plain)  # the next call is guided again


def test_a_callback_may_change_prompt_and_hint_as_in_the_stock_pipeline(ours: Any, theirs: Any):
    def swap(_pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {name: rows.flip(0) for name, rows in values.items()} if step == 1 else values

    options: dict[str, Any] = {
        "callback_on_step_end": swap,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "image"],
    }
    images = own_images(ours, **options)
    assert_same(images, stock_images(theirs, **options))
    options["callback_on_step_end_tensor_inputs"] = ["latents"]
    assert (own_images(ours, **options) - images).abs().max() > 1e-3


def test_diffusers_own_callbacks_name_their_tensors(ours: Any, theirs: Any):
    """`SDCFGCutoffCallback` leaves the stock ControlNet pipeline with two hints and fails there."""
    second_step: Any = {"cutoff_step_ratio": None, "cutoff_step_index": 1}
    if ours.text_encoder_2 is not None:
        cutoff: Any = SDXLControlnetCFGCutoffCallback(**second_step)
        expected = stock_images(theirs, 1, callback_on_step_end=cutoff)
    else:
        cutoff = SDCFGCutoffCallback(**second_step)

        def own(pipe: Any, step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
            if step == 1:
                pipe._guidance_scale = 0.0
                return {name: rows[-1:] for name, rows in values.items()}
            return values

        names = ["prompt_embeds", "image"]
        changed = {"callback_on_step_end": own, "callback_on_step_end_tensor_inputs": names}
        expected = stock_images(theirs, 1, **changed)
    assert_same(own_images(ours, 1, callback_on_step_end=cutoff), expected)
    several: Any = MultiPipelineCallbacks([cutoff, type(cutoff)(cutoff_step_ratio=1.0)])
    assert_same(own_images(ours, 1, callback_on_step_end=several), expected)


def test_foreground_guidance_goes_on_where_text_guidance_ends(ours: Any):
    """e0 + s_fg [e(0, f) - e0] + [e(t, f) - e(0, f)] still needs the negative prompt."""
    scales: dict[str, Any] = {"foreground_guidance_scale": 2.0}
    seen: list[int] = []

    def cut(pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(len(values["prompt_embeds"]))
        pipe._guidance_scale = 1.0
        return {"prompt_embeds": values["prompt_embeds"][-2:]}

    names = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    images = own_images(ours, callback_on_step_end=cut, **names, **scales)
    assert set(seen) == {4}

    def scale(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = 1.0

    assert_same(images, own_images(ours, callback_on_step_end=scale, **scales))


def test_a_callback_of_other_tensors_is_refused(ours: Any):
    def keep(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        return values

    options: dict[str, Any] = {"callback_on_step_end": keep}
    with pytest.raises(InputError, match=r"has images; this call has latents, prompt_embeds"):
        own_images(ours, callback_on_step_end_tensor_inputs=["images"], **options)

    def cut(_pipe: Any, _step: int, _timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": values["prompt_embeds"][-1:]}

    options = {"callback_on_step_end": cut}
    options["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    with pytest.raises(InputError, match=r"it must have 2 rows, or 4 with those of the negative"):
        own_images(ours, **options)


@pytest.mark.parametrize(
    ("prompts", "negative"),
    [(PROMPTS, None), (PROMPTS, ["", ""]), (["", PROMPTS[0]], ["cool light", ""])],
)
def test_empty_texts_are_those_of_the_stock_pipeline(
    prompts: list[str], negative: list[str] | None, ours: Any, theirs: Any
):
    """Of SDXL the negative prompt that is not given is zeros, and "" is not."""
    options = {"negative_prompt": negative, "num_inference_steps": 2}
    hint = make_hint(*foregrounds())
    arguments = {**OPTIONS, **options, "image": hint, "generator": generators()}
    assert_same(own_images(ours, prompt=prompts, **options), theirs(prompts, **arguments).images)


def test_the_unread_end_of_a_long_prompt_is_told_once(
    ours: AnyScenePipeline, caplog: pytest.LogCaptureFixture
):
    """As diffusers tells it; the images are those of what is read."""
    tell_unread.cache_clear()
    caplog.set_level("WARNING", "anyscene.pipeline_inputs")  # commands have it quieter
    read = ours.tokenizer.model_max_length - 2
    long = " ".join(["red"] * read)
    assert len(ours.tokenizer(long).input_ids) == read + 2
    images = own_images(ours, prompt=[long, PROMPTS[0]], num_inference_steps=1)
    assert not caplog.messages
    longer = [long + " mug from left", PROMPTS[0]]
    for _ in range(2):
        assert torch.equal(own_images(ours, prompt=longer, num_inference_steps=1), images)
    (line,) = (message for message in caplog.messages if "not read" in message)
    assert line.startswith(f"prompt: the text encoder reads {read + 2} tokens; not read is ")
    assert "mug from left" in line


def test_without_text_encoders_embeddings_are_enough(folder: Path, parts: Any):
    """Also those of the negative prompt are not needed where the folder says that it is zeros."""
    base = load_base(str(folder))
    full, empty = base.text(PROMPTS), base.text(["", ""])
    given: dict[str, Any] = {"prompt_embeds": full.hidden, "negative_prompt_embeds": empty.hidden}
    names = ["text_encoder", "tokenizer"]
    if full.pooled is not None:
        names += ["text_encoder_2", "tokenizer_2"]
        given = {"prompt_embeds": full.hidden, "pooled_prompt_embeds": full.pooled}
    none: dict[str, Any] = dict.fromkeys(names)
    fim = parts["controlnet"]
    alone = AnyScenePipeline.from_pretrained(folder, controlnet=fim, **none)
    whole = AnyScenePipeline.from_pretrained(folder, controlnet=fim)
    assert torch.equal(own_images(quiet(alone), **given), own_images(quiet(whole)))
    with pytest.raises(InputError, match=r"loaded without its text encoder: give prompt_embeds"):
        own_images(alone)


def test_a_pipeline_without_text_encoder_is_saved_and_loaded(parts: Any, tmp_path: Path):
    names = [name for name in parts if name.startswith(("text_encoder", "tokenizer"))]
    alone = AnyScenePipeline(**{**parts, **dict.fromkeys(names)})
    alone.save_pretrained(tmp_path)
    assert AnyScenePipeline.from_pretrained(tmp_path).text_encoder is None
