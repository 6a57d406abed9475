"""What DreamBooth and Custom Diffusion share: a fine-tune of the base for each subject, then text.

Scenes come subject by subject, and a subject is learnt when its first image is asked for. The
prompt of a scene has the subject's own words in place of its noun; nothing is pasted or blended,
and the composited foreground is not looked at: where the subject stands is the method's choice.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from anyscene.benchmark.fine_tune import (
    Concept,
    FineTune,
    class_prompt,
    hash_of,
    learn,
)
from anyscene.benchmark.fine_tune_settings import Kind, parse_settings
from anyscene.benchmark.methods.base import (
    PLAIN,
    MethodSettings,
    Pngs,
    SceneJob,
    base_parts,
    padded,
    pngs,
    stock,
    stock_call,
)
from anyscene.config import Precision
from anyscene.errors import InputError
from anyscene.files import keep_first
from anyscene.image_jobs import Model, png
from anyscene.models.concepts import add_words
from anyscene.sampler import sample_scenes

RARE_WORDS = ("sks", "ktn")
"""DreamBooth's tokens of a first and a second subject: words that the base hardly knows."""

NEW_WORDS = {"<new1>": "ktn", "<new2>": "pll"}
"""Custom Diffusion's modifier tokens, and the rare words that they begin as."""

CLASS_SEED = 2**31
"""Of the first class image. Scenes' seeds are below it, and torch's generator on the CPU takes the
low 32 bits of a seed."""


class SubjectDriven:
    """One fine-tune a subject, kept in `settings.fine_tunes`, and sampling with it."""

    kind: Kind

    def __init__(self, model: Model, settings: MethodSettings) -> None:
        if settings.fine_tunes is None or settings.benchmark is None:
            raise InputError(f"{self.kind.name} needs a subject set and a folder for fine-tunes")
        self.model, self.sample = model, settings.sample
        self.benchmark, self.fine_tunes = settings.benchmark, settings.fine_tunes
        self.settings = parse_settings(self.kind, settings.fine_tune)
        self.pipeline = stock(model)
        if self.kind is Kind.custom_diffusion:
            add_words(text_parts(model), NEW_WORDS)
        self.learnt: tuple[str, ...] = ()
        self.base_weights: dict[str, Tensor] = {}  # on the CPU, of what a fine-tune changes

    def fields(self) -> dict[str, Any]:
        return PLAIN | {"fine_tune": asdict(self.settings)}

    def make(self, jobs: Sequence[SceneJob]) -> Pngs:
        made: Pngs = []
        for names, group in groupby(jobs, subjects_of):
            own = list(group)
            self.use(names)
            call = stock_call(self.model, padded(own))
            call["prompt"] = [self.prompt(job) for job in padded(own)]
            images = self.pipeline(**call).images[: len(own)]
            made += pngs(images, images)
        return made

    def prompt(self, job: SceneJob) -> str:
        """The scene's prompt with the words that stand for its subjects."""
        words = [concept.words for concept in self.concepts(subjects_of(job))]
        return job.scene.get("subject_prompt", "").format(*words)

    def concepts(self, names: Sequence[str]) -> tuple[Concept, ...]:
        """The subjects with their words, in the scene's order."""
        new = self.kind is Kind.custom_diffusion
        words = NEW_WORDS if new else {word: word for word in RARE_WORDS}
        concepts = []
        for name, (token, begins_as) in zip(names, words.items(), strict=False):
            own = self.benchmark.subjects[name]
            photos = tuple(self.benchmark.folder / photo for photo in own["photos"])
            concepts.append(Concept(name, own["noun"], token, begins_as, photos))
        return tuple(concepts)

    def use(self, names: tuple[str, ...]) -> None:
        """Let the model be the fine-tune of these subjects, which is made if need be."""
        if names == self.learnt:
            return
        concepts = self.concepts(names)
        class_images = {}
        if self.settings.prior_images:
            nouns = dict.fromkeys(concept.noun for concept in concepts)
            class_images = {noun: self.class_images(noun) for noun in nouns}
        fine_tune = FineTune(
            kind=self.kind,
            settings=self.settings,
            concepts=concepts,
            base=self.model.path,
            base_sha256=self.model.sha256,
            pixels=self.model.native_size,
            precision=Precision.fp32 if self.model.dtype == "fp32" else Precision.bf16,
            class_images=class_images,
        )
        with self.out_of_the_way():
            weights = learn(fine_tune, self.fine_tunes)
        if not self.base_weights:
            own = self.places()
            self.base_weights = {name: own[name].detach().cpu().clone() for name in weights}
        self.put(weights)
        self.learnt = names

    def places(self) -> dict[str, Tensor]:
        """The live weights by the names that a fine-tune has for them."""
        if self.kind is Kind.dreambooth:
            return dict(self.model.pipeline.unet.named_parameters())
        return {
            f"{part}.{name}": parameter
            for part, network in networks(self.model).items()
            for name, parameter in network.named_parameters()
        }

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy weights to their places; of new words there may be fewer than places."""
        places = self.places()
        for name, value in weights.items():
            places[name][: len(value)].copy_(value)

    def class_folder(self, noun: str) -> Path:
        """The folder of class images, named by a hash of what they are made with."""
        made_with = {
            "base_sha256": self.model.sha256,
            "prompt": class_prompt(self.kind, noun),
            "seed": CLASS_SEED,
            "pixels": self.model.native_size,
            "steps": self.sample.steps,
            "guidance_scale": self.sample.guidance_scale,
            "scheduler": type(self.model.pipeline.scheduler).__name__,
            "dtype": self.model.dtype,
        }
        name = "".join(letter if letter.isalnum() else "_" for letter in noun)
        return self.fine_tunes / "class-images" / f"{name}-{hash_of(made_with)}"

    def class_images(self, noun: str) -> Path:
        """The folder of what the base makes of a class; what is not there yet is made.

        Sampled as the run's images are. An image depends on its number alone, so that another
        number of them, or another job, takes those that are there. Jobs that make them at the same
        time share the work: each has an order of its own, and looks again before each batch.
        """
        sample, size, folder = self.sample, self.model.native_size, self.class_folder(noun)
        paths = [folder / f"{number:06d}.png" for number in range(self.settings.prior_images)]
        missing = [number for number, path in enumerate(paths) if not path.is_file()]
        random.Random().shuffle(missing)
        if missing:
            self.put(self.base_weights)
            self.learnt = ()
        batch = sample.micro_batch
        bar = tqdm(range(0, len(missing), batch), f"class images: {noun}", disable=None)
        for first in bar:
            numbers = [n for n in missing[first : first + batch] if not paths[n].is_file()]
            if not numbers:
                continue
            output = sample_scenes(
                self.model.pipeline,
                [class_prompt(self.kind, noun)] * len(numbers),
                [CLASS_SEED + number for number in numbers],
                micro_batch=batch,
                height=size,
                width=size,
                num_inference_steps=sample.steps,
                guidance_scale=sample.guidance_scale,
            )
            for number, image in zip(numbers, torch.as_tensor(output.images), strict=True):
                keep_first(paths[number], png(image))
        return folder

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """Leave the device's memory to the trainer, which loads the base itself."""
        if self.model.device == "cpu":
            yield
            return
        parts = [part for part in base_parts(self.model).values() if isinstance(part, nn.Module)]
        for part in parts:
            part.to("cpu")
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            for part in parts:
                part.to(self.model.device)


def subjects_of(job: SceneJob) -> tuple[str, ...]:
    """The names of a scene's subjects."""
    return tuple(subject["name"] for subject in job.scene.get("subjects", []))


def networks(model: Model) -> dict[str, nn.Module]:
    """UNet and text encoders, by the names of a base's parts."""
    parts = base_parts(model)
    return {
        name: parts[name] for name in ("unet", "text_encoder", "text_encoder_2") if name in parts
    }


def text_parts(model: Model) -> list[tuple[Any, Any]]:
    """The one or two tokenizers, each with its text encoder."""
    parts = base_parts(model)
    ends = ("", "_2") if "tokenizer_2" in parts else ("",)
    return [(parts[f"tokenizer{end}"], parts[f"text_encoder{end}"]) for end in ends]
