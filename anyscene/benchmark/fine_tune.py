"""One fine-tune a subject (or a pair of them), by our own trainer, kept under what made it.

FINE_TUNES/class-images/NOUN-HASH/000000.png    what the base itself makes of "a photo of a dog"
FINE_TUNES/METHOD-SUBJECTS-HASH/
    fine_tune.json          what made it; the hash is of this
    lock                    held by the process that learns
    photos/, classes/       shards of the photos and of the class images
    run/                    run folder of the trainer; its checkpoints go when it is done
    trained.safetensors     what was trained, written last
"""

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyscene.benchmark.fine_tune_settings import Kind, Settings
from anyscene.benchmark.subject_set import JOINT
from anyscene.benchmark.subject_shards import Picture, Recipe, make_shards
from anyscene.config import (
    BaseConfig,
    Config,
    DataConfig,
    Injection,
    Precision,
    Trainable,
    TrainConfig,
)
from anyscene.config_checks import check_config, check_packages, check_paths
from anyscene.config_method import LossConfig, Weighting
from anyscene.config_run import LogConfig, Logger
from anyscene.errors import DamageError
from anyscene.files import replace_file, sha256_of, sole_use, write_json
from data_prep.preparation import OtherShardsError

RECORD, WEIGHTS, LOCK = "fine_tune.json", "trained.safetensors", "lock"
PHOTOS, CLASSES, RUN = "photos", "classes", "run"
VERSION = 1  # of the recipe: raised where the same record would give other weights
CHECKPOINTS = 4  # in a fine-tune, about, for going on after a kill


@dataclass(frozen=True)
class Concept:
    """A subject, and the words that stand for it."""

    name: str
    noun: str
    token: str  # a rare word, or a new one
    begins_as: str  # the word that a new one's embedding begins with
    photos: tuple[Path, ...]

    @property
    def words(self) -> str:
        """What stands in a prompt for the subject."""
        return f"{self.token} {self.noun}"


@dataclass(frozen=True)
class FineTune:
    """What is to be learnt, of what, and how."""

    kind: Kind
    settings: Settings
    concepts: tuple[Concept, ...]
    base: str  # folder or hub id
    base_sha256: str
    pixels: int  # a side of the training images
    precision: Precision
    class_images: dict[str, Path]  # folder by noun, of finished class images; {}: no prior

    def record(self) -> dict[str, Any]:
        """What makes the weights what they are."""
        concepts = [
            {
                **{key: getattr(own, key) for key in ("name", "noun", "token", "begins_as")},
                "photos_sha256": [sha256_of(photo) for photo in own.photos],
            }
            for own in self.concepts
        ]
        return {
            "version": VERSION,
            "method": self.kind.name,
            "settings": asdict(self.settings),
            "concepts": concepts,
            "base_sha256": self.base_sha256,
            "pixels": self.pixels,
            "precision": self.precision.name,
            "class_images": {noun: path.name for noun, path in self.class_images.items()},
        }

    def folder(self, fine_tunes: Path) -> Path:
        """Where it is kept: named by a hash of the record."""
        names = JOINT.join(own.name for own in self.concepts)
        return fine_tunes / f"{self.kind.name}-{names}-{hash_of(self.record())}"

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.settings.steps * len(self.concepts)

    @property
    def words(self) -> dict[str, str]:
        """The new words and what they begin as; {} where rare ones are used."""
        if self.kind is Kind.dreambooth:
            return {}
        return {own.token: own.begins_as for own in self.concepts}


def hash_of(record: dict[str, Any]) -> str:
    """Twelve digits that tell two records apart."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]


def learn(fine_tune: FineTune, fine_tunes: Path) -> dict[str, Tensor]:
    """What the fine-tune trained, by the names of the trained module; trained, or trained further,
    where it is not there yet. Where another process is at it, its end is waited for.

    Raises:
        DamageError: weights that are there, or have just been trained, but are damaged.
    """
    folder = fine_tune.folder(fine_tunes)
    if (weights := kept_weights(folder)) is not None:
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    with sole_use(folder / LOCK):
        if (weights := kept_weights(folder)) is not None:
            return weights
        write_json(folder / RECORD, fine_tune.record())
        photos, classes = current_shards(fine_tune, folder)
        config = training_config(fine_tune, folder, photos, classes)
        check_config(config)
        check_paths(config)
        check_packages(config)
        print(f"{fine_tune.kind.name}: {folder.name}, {fine_tune.steps} steps")
        run = trained_run(config)
        weights = last_weights(run, fine_tune.steps)
        replace_file(folder / WEIGHTS, lambda part: save_file(weights, part))
        shutil.rmtree(run / "checkpoints")
    return weights


def kept_weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights of a finished fine-tune, None where there are none; `DamageError` if damaged."""
    if not (folder / WEIGHTS).is_file():
        return None
    try:
        return load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises a class of its own
        raise DamageError(f"{folder / WEIGHTS} is damaged ({error}); remove it") from None


def trained_run(config: Config) -> Path:
    """The run folder, trained to its end.

    A SIGTERM ends the process with the status that it has without Lightning, whose own exception
    would end it with 0: a job script asks for another start by it.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException  # the training stack

    from anyscene.train import train

    try:
        with own_arithmetic():
            return train(config)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None


def last_weights(run: Path, steps: int) -> dict[str, Tensor]:
    """What the last checkpoint of a finished run trained. Raises `DamageError` where it is damaged:
    the one before it is of fewer steps, and the run can go on from there."""
    from anyscene.checkpoint import last_good_checkpoint, read_checkpoint, step_of

    checkpoint = last_good_checkpoint(run / "checkpoints")
    if checkpoint is None or step_of(checkpoint) != steps:
        raise DamageError(
            f"{run} has no undamaged checkpoint of its last step, {steps}; the same command goes "
            "on from the one before"
        )
    state = read_checkpoint(checkpoint)["state_dict"]
    return {name.removeprefix("trained."): value.contiguous() for name, value in state.items()}


def current_shards(fine_tune: FineTune, folder: Path) -> tuple[Path, Path | None]:
    """The shards of what is there now. Where those of a fine-tune that was killed are of other
    class images, which a GPU of another kind makes in other bytes, it begins anew."""
    try:
        return training_shards(fine_tune, folder)
    except OtherShardsError:
        print(f"{folder.name}: begun anew, for its shards are of other pictures than now are there")
        for name in (PHOTOS, CLASSES, RUN):
            shutil.rmtree(folder / name, ignore_errors=True)
        return training_shards(fine_tune, folder)


def training_shards(fine_tune: FineTune, folder: Path) -> tuple[Path, Path | None]:
    """The photos, and the class images if there are any, as the data module reads them."""
    prefix = "a photo of" if fine_tune.kind is Kind.dreambooth else "photo of a"
    recipe = Recipe(
        pixels=fine_tune.pixels,
        seed=fine_tune.settings.seed,
        resized=fine_tune.kind is Kind.custom_diffusion,
        least=fine_tune.settings.batch,
    )
    photos = [
        Picture(path, f"{prefix} {own.words}") for own in fine_tune.concepts for path in own.photos
    ]
    make_shards(photos, folder / PHOTOS, recipe)
    if not fine_tune.class_images:
        return folder / PHOTOS, None
    images = [
        Picture(path, class_prompt(fine_tune.kind, noun))
        for noun, images in fine_tune.class_images.items()
        for path in sorted(images.glob("*.png"))[: fine_tune.settings.prior_images]
    ]
    make_shards(images, folder / CLASSES, replace(recipe, resized=False))
    return folder / PHOTOS, folder / CLASSES


def class_prompt(kind: Kind, noun: str) -> str:
    """The prompt of class images, to make them and to train with them."""
    return f"a photo of a {noun}" if kind is Kind.dreambooth else f"photo of a {noun}"


def training_config(
    fine_tune: FineTune, folder: Path, photos: Path, classes: Path | None
) -> Config:
    """The trainer's configuration: the papers' plain loss, no augmentation but the shards' own, and
    neither warm-up, dropout of prompts nor an average."""
    settings = fine_tune.settings
    on_unet = fine_tune.kind is Kind.dreambooth
    every = max(1, fine_tune.steps // CHECKPOINTS)
    return Config(
        name=RUN,
        runs_dir=str(folder),
        base=BaseConfig(path=fine_tune.base),
        data=DataConfig(
            train=str(photos),
            mix={} if classes is None else {str(classes): 1.0},
            batch_size=settings.batch * (1 if classes is None else 2),
            workers=0,
            max_bad_share=0.0,
            exposure_stops=0.0,
            tint=0.0,
        ),
        loss=LossConfig(
            weighting=Weighting.uniform,
            prior_weight=None if classes is None else settings.prior_weight,
            inside=1.0,  # the mask of a sample is where its image is, which may not be everywhere
            boundary=0.0,
            rest=0.0,
        ),
        train=TrainConfig(
            steps=fine_tune.steps,
            trainable=Trainable.unet if on_unet else Trainable.cross_attention_kv,
            modifier_tokens=fine_tune.words,
            injection=Injection.none,
            learning_rate=settings.learning_rate,
            warmup_steps=0,
            ema_decay=0.0,
            prompt_dropout=0.0,
            precision=fine_tune.precision,
            gradient_checkpointing=torch.cuda.is_available(),
            seed=settings.seed,
            checkpoint_every=every,
            keep_checkpoints=2,
        ),
        log=LogConfig(every=every, logger=Logger.none),
    )


@contextmanager
def own_arithmetic() -> Iterator[None]:
    """Training changes how this process computes; sampling after it shall be as without it."""
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    exact = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        torch.use_deterministic_algorithms(exact)
