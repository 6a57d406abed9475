"""From a manifest's line to its image: the one path that `generate` and its `--again` share."""

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from anyscene import __version__
from anyscene.config import Blend
from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.export_record import EXPORT_NAME, MODEL_INDEX
from anyscene.layout_settings import layout_of
from anyscene.models.base import unet_factor, weights_sha256
from anyscene.models.fit import check_fit
from anyscene.models.loading import load_networks
from anyscene.pipeline import AnyScenePipeline
from anyscene.sampler import sample_scenes
from anyscene.visual import to_pil

CAST = {"fp32": nn.Module.float, "bf16": nn.Module.bfloat16, "fp16": nn.Module.half}
VERSIONS_OF = ("torch", "diffusers", "transformers", "pillow")
SAME_CALL = (
    "negative_prompt",
    "height",
    "width",
    "steps",
    "guidance_scale",
    "foreground_guidance_scale",
    "layout",
    "blend",
    "micro_batch",
    "threads",
)
"""Fields that the images of one call of the pipeline have in common."""


@dataclass(frozen=True)
class Model:
    """A pipeline on its device, and what a manifest says of it."""

    pipeline: AnyScenePipeline
    path: str
    sha256: str
    dtype: str
    device: str  # cpu or cuda

    @property
    def native_size(self) -> int:
        """Pixels a side that the base was made for."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def multiple(self) -> int:
        """Sides must be multiples of this many pixels."""
        return self.pipeline.vae_scale_factor * unet_factor(self.pipeline.unet)

    @property
    def guided(self) -> bool:
        """Whether it has a Foreground Injection Module."""
        return self.pipeline.controlnet is not None

    def device_name(self) -> str:
        """The device and what decides about its last bits, as `cpu AMD EPYC, AVX2` or
        `cuda NVIDIA H100`: processors of two makers round otherwise with the same instructions."""
        if self.device == "cpu":
            known = getattr(torch.cpu, "get_capabilities", dict)()  # not in the oldest torch
            maker = known.get("cpu_name", "of unknown make")
            return f"cpu {maker}, {torch.backends.cpu.get_cpu_capability()}"
        return f"cuda {torch.cuda.get_device_name()}"


@dataclass(frozen=True)
class Foreground:
    """A canvas at the size of the image: colours 3 H W and alpha 1 H W, in [0, 1]."""

    rgb: Tensor
    alpha: Tensor


@dataclass(frozen=True)
class Job:
    """An image to make: its line, as far as it is known before, and its foreground."""

    line: dict[str, Any]
    foreground: Foreground | None


def call_of(line: Mapping[str, Any]) -> str:
    """Equal for the lines of images that one call of the pipeline can make together."""
    same = {key: line[key] for key in SAME_CALL}
    return json.dumps([same, line["canvas"] is None], sort_keys=True)


def load_model(model: str, dtype: str, device: str) -> Model:
    """The pipeline of a folder or hub id on its device.

    Raises:
        InputError: no such device, or a model that cannot be loaded.
    """
    device = choose_device(device)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    try:
        is_fim = (Path(model) / EXPORT_NAME).is_file() and not (Path(model) / MODEL_INDEX).is_file()
        parts = {} if is_fim else load_networks(model, "model")
        pipeline = AnyScenePipeline.from_pretrained(model, dtype=torch.float32, **parts)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model {model} could not be loaded ({reason}); give a complete folder, which for a "
            f"hub id `hf download {model} --local-dir DIR` makes where there is a network"
        ) from None
    check_fit(f"model {model}", pipeline)
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "controlnet")
    parts = [part for name in names if (part := getattr(pipeline, name)) is not None]
    sha256 = model_sha256(weights_sha256(*parts), pipeline.scheduler)
    for part in parts:
        CAST[dtype](part.eval())
    pipeline.to(device, silence_dtype_warnings=True)  # float16 on a CPU is slow, but works
    pipeline.set_progress_bar_config(disable=True)
    return Model(pipeline, model, sha256, dtype, device)


def model_sha256(weights: str, scheduler: Any) -> str:
    """Hash of a model's weights, by theirs, and of its scheduler's settings: with other ones, such
    as another spacing of the steps, it makes other images.

    Those that the model's folder leaves to the library are not in it, for a new version has more.
    """
    left = scheduler.config.get("_use_default_values", ())
    own = {k: v for k, v in scheduler.config.items() if not k.startswith("_") and k not in left}
    return hashlib.sha256(f"{weights} {json.dumps(own, sort_keys=True)}".encode()).hexdigest()


def warn_of_long_prompts(model: Model, prompts: Iterable[str]) -> None:
    """Say of which prompts the end is not read: text encoders take 75 tokens and two ends."""
    tokenizer = model.pipeline.tokenizer
    most = tokenizer.model_max_length
    for prompt in dict.fromkeys(prompts):
        tokens = len(tokenizer(prompt, verbose=False).input_ids)
        if tokens > most:
            print(
                f"WARNING: {tokens - most} of {tokens} tokens are not read, the last ones of the "
                f"prompt {shorten(prompt, 60)!r}",
                file=sys.stderr,
            )


def make_images(model: Model, jobs: Sequence[Job]) -> list[tuple[bytes, bytes]]:
    """The PNG files, blended and raw, of jobs of one `call_of`."""
    line = jobs[0].line
    foregrounds = [job.foreground for job in jobs if job.foreground is not None]
    blend = line["blend"] or {"mode": Blend.none.name, "k": 1.0}
    output = sample_scenes(
        model.pipeline,
        [job.line["prompt"] for job in jobs],
        [job.line["seed"] for job in jobs],
        torch.stack([own.rgb for own in foregrounds]) if foregrounds else None,
        torch.stack([own.alpha for own in foregrounds]) if foregrounds else None,
        micro_batch=line["micro_batch"],
        negative_prompt=line["negative_prompt"] or None,
        height=line["height"],
        width=line["width"],
        num_inference_steps=line["steps"],
        guidance_scale=line["guidance_scale"],
        foreground_guidance_scale=line["foreground_guidance_scale"],
        layout=layout_of(line["layout"]),
        blend=Blend[blend["mode"]],
        blend_k=blend["k"],
    )
    pairs = zip(output.images, output.raw_images, strict=True)
    return [(png(torch.as_tensor(a)), png(torch.as_tensor(b))) for a, b in pairs]


def png(image: Tensor) -> bytes:
    """The PNG file of C H W in [0, 1]."""
    file = io.BytesIO()
    to_pil(image).save(file, format="PNG")
    return file.getvalue()


def versions() -> dict[str, str]:
    """What an image's bits depend on beside the model."""
    return {"anyscene": __version__, **{name: version(name) for name in VERSIONS_OF}}
