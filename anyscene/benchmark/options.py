"""What a command line says of runs and metrics. No torch here."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from anyscene.config import MetricsConfig
from anyscene.errors import ConfigError, nearest


def named_folders(texts: Sequence[str]) -> list[tuple[str | None, Path]]:
    """(name or None, folder) of `NAME=FOLDER` or `FOLDER`."""
    result = []
    for text in texts:
        name, equals, path = text.partition("=")
        named = bool(equals) and "/" not in name
        result.append((name, Path(path)) if named else (None, Path(text)))
    return result


def metrics_config(pairs: Sequence[str]) -> MetricsConfig:
    """The configuration that `clip=FOLDER`, `metrics.inception=FILE`, ... make.

    Raises:
        ConfigError: an unknown key, or a value of the wrong kind.
    """
    kinds: dict[str, Any] = {field.name: field.type for field in fields(MetricsConfig)}
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        key = name.removeprefix("metrics.")
        if not equals or key not in kinds:
            raise ConfigError(
                f"{pair!r} is no metrics.KEY=VALUE; the keys are {', '.join(kinds)}"
                f"{nearest(key, kinds)}"
            )
        values[key] = _value(f"metrics.{key}", text, kinds[key])
    return MetricsConfig(**values)


def _value(key: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise ConfigError(f"{key}={text} must be true or false")
        return text == "true"
    if kind is int:
        if not text.isdigit() or int(text) < 1:
            raise ConfigError(f"{key}={text} must be a whole number of at least 1")
        return int(text)
    return None if text == "null" else text
