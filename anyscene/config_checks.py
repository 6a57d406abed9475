"""What values must be, alone and together; each mistake is told with what would do.

Nothing heavy is imported here, as in `config_io`.
"""

import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anyscene.config import Config, Injection, Optimizer, Precision, Trainable
from anyscene.config_method import Hint
from anyscene.config_run import Logger
from anyscene.data.fetching import check_location, is_remote
from anyscene.errors import ConfigError
from anyscene.layout_settings import layout_mistake
from anyscene.ranks import is_requeued
from anyscene.sharding_settings import sharding_mistake

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

POSITIVE = (
    "train.steps",
    "train.learning_rate",
    "train.clip_norm",
    "train.accumulate",
    "train.devices",
    "train.nodes",
    "train.threads",
    "train.checkpoint_every",
    "train.validate_every",
    "data.batch_size",
    "data.val_samples",
    "data.shuffle_window",
    "data.cache_gb",
    "loss.gamma",
    "sample.steps",
    "sample.micro_batch",
    "sample.grid_scenes",
    "log.every",
    "log.wait_seconds",
    "metrics.micro_batch",
    "cluster.cpus",
    "cluster.stop_seconds",
    "cluster.timeout_minutes",
)
NOT_NEGATIVE = (
    "data.workers",
    "data.exposure_stops",
    "data.tint",
    "train.warmup_steps",
    "train.seed",
    "train.lora_rank",
    "train.weight_decay",
    "fim.fit_embedder_steps",
    "loss.inside",
    "loss.boundary",
    "loss.rest",
    "loss.offset_noise",
    "loss.prior_weight",
    "sample.guidance_scale",
    "sample.foreground_guidance_scale",
    "sample.seed",
    "cluster.gpus",
)
AT_MOST = {  # and not negative
    "data.max_bad_share": 1,
    "data.canvas_colour": 0.5,
    "data.mask_jitter": 2,
    "data.flip": 1,
    "train.prompt_dropout": 1,
    "train.foreground_dropout": 1,
    "train.final_learning_rate_share": 1,
    "sample.blend_k": 1,
}
BELOW_ONE = ("train.ema_decay", "loss.boundary_width")


def check_config(config: Config) -> None:
    """Values that cannot go together, and values out of range, with the numbers that would do."""
    _check_ranges(config)
    folder = Path(config.name)
    if not folder.parts or folder.is_absolute() or ".." in folder.parts:
        raise ConfigError(
            f"name={config.name!r} must name a folder within runs_dir={config.runs_dir!r}, such as "
            "name=first; to write elsewhere set runs_dir"
        )
    train, data = config.train, config.data
    micro = train.accumulate * train.devices * train.nodes
    if data.batch_size % micro:
        below, above = data.batch_size // micro * micro, (data.batch_size // micro + 1) * micro
        fits = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"data.batch_size={data.batch_size} is not divisible by train.accumulate x "
            f"train.devices x train.nodes = {train.accumulate} x {train.devices} x "
            f"{train.nodes} = {micro}; use {fits}"
        )
    if config.loss.prior_weight is not None and not data.mix:
        raise ConfigError(
            f"loss.prior_weight={config.loss.prior_weight} needs the prior's images in data.mix, "
            "which is empty; use loss.prior_weight=null"
        )
    if train.trainable is Trainable.fim and train.injection is Injection.none:
        raise ConfigError(
            "train.trainable=fim cannot go with train.injection=none: there would be nothing to "
            "train; use train.trainable=unet or train.injection=fim"
        )
    if config.fim.fit_embedder_steps and (config.fim.hint is not Hint.pixel or config.fim.init):
        hint = config.fim.hint
        reason = "a latent hint is one already" if hint is Hint.latent else "edges hold no colour"
        reason = reason if config.fim.init is None else "it is trained"
        key = (
            f"fim.hint={hint.name}" if config.fim.init is None else f"fim.init={config.fim.init!r}"
        )
        raise ConfigError(
            f"fim.fit_embedder_steps={config.fim.fit_embedder_steps} cannot go with {key} "
            f"({reason}); use fim.fit_embedder_steps=0"
        )
    _check_training(config)
    _check_concepts(config)
    mistake = sharding_mistake(config)
    if mistake is not None:
        raise ConfigError(mistake)
    if train.precision is not Precision.fp32 and train.deterministic:
        raise ConfigError("train.deterministic=true needs train.precision=fp32")
    gpus = config.cluster.gpus
    if gpus and gpus < train.devices:
        raise ConfigError(
            f"train.devices={train.devices} needs as many GPUs, but cluster.gpus={gpus}; "
            f"use train.devices={gpus} or less, or cluster.gpus=0 for CPU nodes"
        )
    if config.debug.overfit not in (0, 1, 4):
        raise ConfigError(f"debug.overfit={config.debug.overfit} must be 0, 1 or 4")
    if config.debug.overfit and data.mix:
        raise ConfigError(
            f"debug.overfit={config.debug.overfit} cannot go with data.mix: it trains on samples "
            "of data.train alone; use data.mix={}"
        )


def _check_training(config: Config) -> None:
    """What of `trainable`, `injection`, LoRA and schedule goes together."""
    train, fim = config.train, config.fim
    if train.trainable is Trainable.unet and train.injection is Injection.fim and not fim.init:
        raise ConfigError(
            "train.trainable=unet beside train.injection=fim needs a trained FIM, fim.init, for a "
            "new one would stay as it is and do nothing; use train.injection=none to train the "
            "base alone"
        )
    if train.zero_terminal_snr and train.trainable is Trainable.fim:
        raise ConfigError(
            "train.zero_terminal_snr=true cannot go with train.trainable=fim: the frozen base has "
            "never seen pure noise; use train.trainable=unet (with train.lora_rank for adapters)"
        )
    if train.foreground_dropout and train.injection is Injection.none:
        raise ConfigError(
            f"train.foreground_dropout={train.foreground_dropout} has no foreground to drop with "
            "train.injection=none; use 0"
        )
    if fim.init and train.injection is Injection.none:
        raise ConfigError(
            f"fim.init={fim.init!r} has no effect with train.injection=none, which trains without "
            "a FIM; leave it out, or use train.injection=fim"
        )
    if fim.init and fim.transformer_layers is not None:
        raise ConfigError(
            f"fim.transformer_layers={fim.transformer_layers} cannot go with "
            f"fim.init={fim.init!r}, which has its own; leave it out"
        )


def _check_concepts(config: Config) -> None:
    """What goes together with the training of cross-attention and new words."""
    train = config.train
    on_concepts = train.trainable is Trainable.cross_attention_kv
    if on_concepts and train.injection is not Injection.none:
        raise ConfigError(
            f"train.trainable=cross_attention_kv cannot go with train.injection="
            f"{train.injection.name}: it trains the base alone; use train.injection=none"
        )
    if on_concepts and train.lora_rank:
        raise ConfigError(
            f"train.lora_rank={train.lora_rank} cannot go with train.trainable=cross_attention_kv, "
            "which trains these weights themselves; use train.lora_rank=0"
        )
    for token, word in train.modifier_tokens.items():
        if not on_concepts:
            raise ConfigError(
                f"train.modifier_tokens has {token!r}, but train.trainable={train.trainable.name} "
                "trains no words; use train.trainable=cross_attention_kv"
            )
        if len(token.split()) != 1 or len(word.split()) != 1:
            raise ConfigError(
                f"train.modifier_tokens: {token!r} and the word it begins with, {word!r}, must be "
                "one word each, without spaces"
            )


def _check_ranges(config: Config) -> None:
    for key in POSITIVE:
        value = _value(config, key)
        if value is not None and not 0 < value < math.inf:
            limit = "greater than 0" if value <= 0 else "a finite number"
            raise ConfigError(f"{key}={value} must be {limit}")
    for key in NOT_NEGATIVE:
        value = _value(config, key)
        if value is not None and not 0 <= value < math.inf:
            limit = "not be negative" if value < 0 else "be a finite number"
            raise ConfigError(f"{key}={value} must {limit}")
    for key, most in AT_MOST.items():
        value = _value(config, key)
        if not 0 <= value <= most:
            raise ConfigError(f"{key}={value} must be between 0 and {most}")
    for location, weight in config.data.mix.items():
        if not 0 < weight < math.inf:
            raise ConfigError(f"data.mix: the weight {weight} of {location!r} must be positive")
    betas = config.train.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(
            f"train.betas={betas} has {len(betas)} values; it needs 2, each at least 0 and less "
            "than 1, such as [0.9, 0.999]"
        )
    for key in BELOW_ONE:
        value = _value(config, key)
        if not 0 <= value < 1:
            raise ConfigError(f"{key}={value} must be at least 0 and less than 1")
    if config.loss.inside == config.loss.boundary == config.loss.rest == 0:
        raise ConfigError(
            "loss.inside, loss.boundary and loss.rest are all 0: nothing would be learnt; "
            "use 1 for each to weigh all latents alike"
        )
    mistake = layout_mistake(config.sample.layout)
    if mistake is not None:
        raise ConfigError(f"sample.layout.{''.join(mistake)}")
    if config.train.keep_checkpoints < 2:
        raise ConfigError(
            f"train.keep_checkpoints={config.train.keep_checkpoints} must be at least 2, "
            "so that a damaged checkpoint has one before it"
        )


def _value(config: Config, key: str) -> Any:
    group, _, name = key.partition(".")
    return getattr(getattr(config, group), name)


def check_paths(config: Config) -> None:
    """Folders and files that are not here. A hub id is looked up later, when needed."""
    path = config.base.path
    if not Path(path).is_dir() and not HUB_ID.fullmatch(path):
        raise ConfigError(
            f"base.path={path!r} is neither a folder here nor a hub id such as ORGANISATION/NAME"
        )
    folders = [("data.train", config.data.train), ("data.val", config.data.val)]
    folders += [("data.mix", location) for location in config.data.mix]
    folders += [("metrics.judge", config.metrics.judge), ("fim.init", config.fim.init)]
    folders += [("metrics.reference", config.metrics.reference)]
    for key, value in folders:
        if key.startswith("data.") and value is not None and is_remote(value):
            check_location(key, value)
        elif value is not None and not Path(value).is_dir():
            raise ConfigError(f"{key}={value!r} is not a folder here")
    for name in ("inception", "aesthetic_v1", "aesthetic_v2"):
        value = getattr(config.metrics, name)
        url = name == "inception" and is_remote(value or "")
        if value is not None and not Path(value).is_file() and not url:
            raise ConfigError(f"metrics.{name}={value!r} is no file here; see docs/metrics.md")
    resume = config.train.resume
    needed = resume not in ("auto", "never") and not is_requeued()  # or else perhaps no more
    if needed and not Path(resume).exists():
        raise ConfigError(f"train.resume={resume!r} is neither auto, never nor a checkpoint file")


def check_packages(config: Config, to_run: bool = True) -> None:
    """Packages that are not here; what a run is counted with alone, where it is not `to_run`."""
    logger, train = config.log.logger, config.train
    wanted = [
        (
            "log.logger",
            logger.name,
            logger.name,
            "none",
            to_run and logger is not Logger.none,
        ),
        ("train.lora_rank", train.lora_rank, "peft", "0", train.lora_rank > 0),
        (
            "train.optimizer",
            train.optimizer.name,
            "bitsandbytes",
            "adamw",
            to_run and train.optimizer is Optimizer.adamw8bit,
        ),
    ]
    for key, value, package, instead, needed in wanted:
        if needed and find_spec(package) is None:
            raise ConfigError(
                f"{key}={value} needs the package {package}: pip install {package}, or use "
                f"{key}={instead}"
            )
