"""What a method is: a model, what its manifest lines say of it, and jobs to images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from anyscene.benchmark.methods import METHODS
from anyscene.benchmark.scenes import Benchmark, BenchmarkScene
from anyscene.compositing.blending import blend
from anyscene.compositing.hint import BACKGROUND_GREY
from anyscene.config import Blend, SampleConfig
from anyscene.export import stock_pipeline
from anyscene.image_jobs import Foreground, Job, Model, png
from anyscene.pipeline_inputs import initial_latents

Pngs = list[tuple[bytes, bytes]]
"""The final and the raw (before blending) PNG file of each job."""


@dataclass(frozen=True)
class SceneJob(Job):
    """An image of a benchmark's scene to make; only subject sets have some without foreground."""

    scene: BenchmarkScene
    folder: Path  # of the benchmark

    @property
    def own(self) -> Foreground:
        """The composited foreground."""
        assert self.foreground is not None
        return self.foreground


@dataclass(frozen=True)
class MethodSettings:
    """What methods are given beside their model."""

    sample: SampleConfig
    negative_prompt: str = ""
    controlnet: Path | None = None  # of `controlnet_canny`
    sam: Path | None = None  # of `inpaint_anything`, where no mask shall be given
    benchmark: Benchmark | None = None  # of subject-driven methods: where the photos are
    fine_tunes: Path | None = None  # of the same: folder that keeps them
    fine_tune: tuple[str, ...] = ()  # KEY=VALUE, see `fine_tune.Settings`


class Method(Protocol):
    """A system under comparison. All get the same scenes, seeds, scheduler, steps and size."""

    def __init__(self, model: Model, settings: MethodSettings) -> None: ...

    def fields(self) -> dict[str, Any]:
        """What its manifest lines say: foreground_guidance_scale, layout, blend; and the weights'
        checksum where it has more than the model."""
        ...

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        """The images of jobs of one size, one network call of exactly as many images."""
        ...


def method_class(name: str) -> type[Method]:
    """The class behind a name of `METHODS`."""
    module, _, kind = METHODS[name].partition(":")
    return getattr(import_module(module), kind)


PLAIN: dict[str, Any] = {"foreground_guidance_scale": 1.0, "layout": None, "blend": None}
ALPHA: dict[str, Any] = PLAIN | {"blend": {"mode": Blend.alpha.name, "k": 1.0}}
"""Fields of methods that nothing guides but text, without and with pasted pixels."""


def padded(jobs: Sequence[SceneJob]) -> list[SceneJob]:
    """The jobs filled up with copies of the last one to the micro-batch that their lines name."""
    return [*jobs, *[jobs[-1]] * (jobs[0].line["micro_batch"] - len(jobs))]


def noise_of(model: Model, jobs: Sequence[SceneJob]) -> Tensor:
    """The initial noise of each job by its seed alone, B c h w: the same for every method."""
    line, factor = jobs[0].line, model.pipeline.vae_scale_factor
    channels: Any = model.pipeline.vae.config
    size = (line["height"] // factor, line["width"] // factor)
    generators = [torch.Generator().manual_seed(job.line["seed"]) for job in jobs]
    place = {"device": torch.device(model.device), "dtype": model.pipeline.unet.dtype}
    shape = (len(jobs), channels.latent_channels, *size)
    return initial_latents(shape, generators, None, place)


def stock_call(model: Model, jobs: Sequence[SceneJob]) -> dict[str, Any]:
    """Arguments that all of diffusers' pipelines take. An empty negative prompt is None, the
    base's own convention."""
    line = jobs[0].line
    return {
        "prompt": [job.line["prompt"] for job in jobs],
        "negative_prompt": [line["negative_prompt"]] * len(jobs)
        if line["negative_prompt"]
        else None,
        "height": line["height"],
        "width": line["width"],
        "num_inference_steps": line["steps"],
        "guidance_scale": line["guidance_scale"],
        "generator": [torch.Generator().manual_seed(job.line["seed"]) for job in jobs],
        "latents": noise_of(model, jobs),
        "output_type": "pt",
    }


def base_parts(model: Model) -> dict[str, Any]:
    """The parts of the base, by the names of diffusers' pipelines."""
    pipeline = model.pipeline
    names = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"]
    if pipeline.text_encoder_2 is not None:
        names += ["text_encoder_2", "tokenizer_2"]
    parts = {name: getattr(pipeline, name) for name in names}
    if pipeline.text_encoder_2 is not None:
        parts["force_zeros_for_empty_prompt"] = pipeline.config["force_zeros_for_empty_prompt"]
    return parts


def stock(model: Model, **further: Any) -> Any:
    """Diffusers' own text-to-image pipeline of the base, or its ControlNet pipeline."""
    pipeline = stock_pipeline(base_parts(model) | further)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def foregrounds(jobs: Sequence[SceneJob], device: str) -> tuple[Tensor, Tensor]:
    """Colours B 3 H W and alpha B 1 H W in [0, 1]."""
    rgb = torch.stack([job.own.rgb for job in jobs])
    alpha = torch.stack([job.own.alpha for job in jobs])
    return rgb.to(device), alpha.to(device)


def on_grey(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Foregrounds on grey, as a model that wants a whole image is shown them, B 3 H W in [0, 1]."""
    return rgb * alpha + BACKGROUND_GREY * (1 - alpha)


def with_foreground(job: SceneJob, foreground: Foreground) -> SceneJob:
    """The same job, shown another foreground."""
    return replace(job, foreground=foreground)


def pasted(raw: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """The elements' own pixels on images B 3 H W in [0, 1]."""
    return blend(raw.float(), rgb.float(), alpha.float(), Blend.alpha)


def pngs(final: Tensor, raw: Tensor) -> Pngs:
    """The files of images B 3 H W in [0, 1]."""
    return [(png(one), png(other)) for one, other in zip(final, raw, strict=True)]
