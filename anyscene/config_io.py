"""Load, merge, check and save configurations. The only file that knows OmegaConf.

Nothing heavy is imported here, so that a mistake is reported before torch is loaded.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from anyscene.config import Config, Injection, Precision, Trainable
from anyscene.errors import ConfigError, nearest

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Defaults, then the YAML file, then `key=value` overrides, checked.

    Raises:
        ConfigError: one line that names the key, the value, where it came from and the fix.
    """
    merged = OmegaConf.structured(Config)
    merged = _merge(merged, _read_yaml(Path(path)), str(path))
    for override in overrides:
        merged = _merge(merged, _parse_override(override), "the command line")
    missing = sorted(OmegaConf.missing_keys(merged))
    if missing:
        raise ConfigError(
            f"{missing[0]} has no value: set it in {path} or give {missing[0]}=... "
            "on the command line"
        )
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    check_config(config)
    return config


def save_config(config: Config, path: Path) -> None:
    """The whole configuration as YAML that `load_config` reads back to the same object."""
    path.write_text(config_text(config))


def config_text(config: Config) -> str:
    """The whole configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(f"no config file {str(path)!r}{nearest(str(path), siblings)}")
    try:
        loaded = OmegaConf.load(path)
    except YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} must hold `key: value` lines at its top")
    return loaded


def _parse_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no '=': write {key}=VALUE")
    try:
        return OmegaConf.from_dotlist([override])
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {override!r}: {' '.join(str(error).split())}") from None


def _merge(schema: Any, values: DictConfig, source: str) -> Any:
    _check_keys(values, Config, "", source)
    try:
        return OmegaConf.merge(schema, values)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, source)) from None


def _check_keys(values: DictConfig, kind: type, prefix: str, source: str) -> None:
    known = {field.name for field in fields(kind)}
    hints = get_type_hints(kind)
    for key in values:
        full = f"{prefix}{key}"
        if key not in known:
            hint = nearest(str(key), known) or nearest(full, _all_keys(Config, ""))
            raise ConfigError(f"unknown key {full!r} in {source}{hint}")
        child = values._get_node(key)
        if is_dataclass(hints[key]) and not isinstance(child, DictConfig):
            inner = ", ".join(field.name for field in fields(hints[key]))
            raise ConfigError(f"{full} in {source} is a group of keys ({inner}), not one value")
        if isinstance(child, DictConfig) and is_dataclass(hints[key]):
            _check_keys(child, hints[key], f"{full}.", source)


def _all_keys(kind: type, prefix: str) -> list[str]:
    hints = get_type_hints(kind)
    keys = []
    for field in fields(kind):
        name = f"{prefix}{field.name}"
        inner = hints[field.name]
        keys += _all_keys(inner, f"{name}.") if is_dataclass(inner) else [name]
    return keys


def _explain(error: OmegaConfBaseException, source: str) -> str:
    key = error.full_key or "a value"
    wanted = f" (expected {_type_name(error.ref_type)})" if error.ref_type is not None else ""
    first = str(error.msg or error).splitlines()[0]
    choices = _choices(key)
    if choices:
        first = f"{first}; choose one of {', '.join(choices)}"
        wanted = ""
    return f"{key} in {source}: {first}{wanted}"


def _type_name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def _choices(key: str) -> list[str]:
    kind: Any = Config
    for part in key.split("."):
        if not is_dataclass(kind):
            return []
        kind = get_type_hints(kind).get(part)
    return [c.name for c in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def check_config(config: Config) -> None:
    """Values that cannot go together, and values out of range, with the numbers that would do."""
    _check_ranges(config)
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
    if len(train.betas) != 2:
        raise ConfigError(f"train.betas={train.betas} has {len(train.betas)} values; it needs 2")
    if train.trainable is Trainable.fim and train.injection is Injection.none:
        raise ConfigError(
            "train.trainable=fim cannot go with train.injection=none: there would be nothing to "
            "train; use train.trainable=unet or train.injection=fim"
        )
    if train.precision is Precision.bf16 and train.deterministic:
        raise ConfigError("train.deterministic=true needs train.precision=fp32")
    if config.debug.overfit not in (0, 1, 4):
        raise ConfigError(f"debug.overfit={config.debug.overfit} must be 0, 1 or 4")
    _check_paths(config)


def _check_ranges(config: Config) -> None:
    positive = {
        "train.steps": config.train.steps,
        "train.learning_rate": config.train.learning_rate,
        "train.clip_norm": config.train.clip_norm,
        "train.accumulate": config.train.accumulate,
        "train.devices": config.train.devices,
        "train.nodes": config.train.nodes,
        "train.checkpoint_every": config.train.checkpoint_every,
        "train.validate_every": config.train.validate_every,
        "data.batch_size": config.data.batch_size,
        "data.val_samples": config.data.val_samples,
        "data.shuffle_window": config.data.shuffle_window,
        "loss.gamma": config.loss.gamma,
        "sample.steps": config.sample.steps,
        "sample.micro_batch": config.sample.micro_batch,
        "sample.grid_scenes": config.sample.grid_scenes,
        "log.every": config.log.every,
    }
    for key, value in positive.items():
        if value <= 0:
            raise ConfigError(f"{key}={value} must be greater than 0")
    shares = {
        "data.max_bad_share": config.data.max_bad_share,
        "train.prompt_dropout": config.train.prompt_dropout,
        "train.final_learning_rate_share": config.train.final_learning_rate_share,
        "sample.blend_k": config.sample.blend_k,
    }
    for key, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{key}={value} must be between 0 and 1")
    if not 0 <= config.train.ema_decay < 1:
        raise ConfigError(f"train.ema_decay={config.train.ema_decay} must be in [0, 1)")
    if config.train.keep_checkpoints < 2:
        raise ConfigError(
            f"train.keep_checkpoints={config.train.keep_checkpoints} must be at least 2, "
            "so that a damaged checkpoint has one before it"
        )
    for key, value in {"data.workers": config.data.workers}.items():
        if value < 0:
            raise ConfigError(f"{key}={value} must not be negative")


def _check_paths(config: Config) -> None:
    path = config.base.path
    if not Path(path).is_dir() and not HUB_ID.fullmatch(path):
        raise ConfigError(
            f"base.path={path!r} is neither a folder here nor a hub id such as ORGANISATION/NAME"
        )
    folders = {
        "data.train": config.data.train,
        "data.val": config.data.val,
        "metrics.judge": config.metrics.judge,
        "fim.init": config.fim.init,
    }
    for key, value in folders.items():
        if value is not None and not Path(value).is_dir():
            raise ConfigError(f"{key}={value!r} is not a folder here")
    resume = config.train.resume
    if resume not in ("auto", "never") and not Path(resume).is_file():
        raise ConfigError(f"train.resume={resume!r} is neither auto, never nor a checkpoint file")
