"""Load, merge and save configurations. The only file that knows OmegaConf.

Nothing heavy is imported here, so that a mistake is reported before torch is loaded.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MappingNode, Node, SafeLoader, YAMLError, compose

from anyscene.config import Config
from anyscene.config_checks import check_config, check_packages, check_paths
from anyscene.errors import ConfigError, nearest
from anyscene.files import named_in_errors, replace_file


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    adapt: Callable[[Config], Config] | None = None,
    to_run: bool = True,
) -> Config:
    """Defaults, then the YAML file, then `key=value` overrides, adapted and checked.

    Where it is not `to_run` but to be counted, packages that only a run needs may be missing.

    Raises:
        ConfigError: one line that names the key, the value, where it came from and the fix.
    """
    config = read_config(path, overrides)
    if adapt is not None:
        config = adapt(config)
    check_config(config)
    check_paths(config)
    check_packages(config, to_run)
    return config


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """As `load_config`, but only keys, types and choices are checked, not what the values mean."""
    merged = _merge(deepcopy(_schema()), _read_yaml(Path(path)), str(path))
    for override in overrides:
        merged = _merge(merged, _parse_override(override), "the command line")
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        config = None if missing else OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, f"{path} or the command line")) from None
    if missing:
        raise ConfigError(
            f"{missing[0]} has no value: set it in {path} or give {missing[0]}=... "
            "on the command line"
        )
    assert isinstance(config, Config)
    return config


@cache
def _schema() -> Any:
    """All keys with types and defaults; a copy costs a quarter of making it."""
    return OmegaConf.structured(Config)


def save_config(config: Config, path: Path) -> None:
    """The whole configuration as YAML that `load_config` reads back to the same object."""
    text = config_text(config)
    with named_in_errors(path):
        replace_file(path, lambda part: part.write_text(text))


def config_text(config: Config) -> str:
    """The whole configuration as YAML; the same for equal configurations."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def changed_values(path: Path, config: Config) -> dict[str, list[Any]]:
    """Keys whose value differs from that in a saved configuration: [before, now], as in YAML."""
    if not path.is_file():
        return {}
    before = _flat(OmegaConf.to_container(OmegaConf.load(path)))
    now = _flat(OmegaConf.to_container(OmegaConf.create(config_text(config))))
    return {key: [before[key], now[key]] for key in now if before.get(key, now[key]) != now[key]}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {
        k: v for name, inner in values.items() for k, v in _flat(inner, f"{prefix}{name}.").items()
    }


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
    _keep_text(loaded, compose(path.read_text(), SafeLoader), "")
    return loaded


def _keep_text(values: DictConfig, node: Node | None, prefix: str) -> None:
    """Take values of text as they are written: YAML takes 24:00:00 and 007 for other numbers."""
    for name, written in node.value if isinstance(node, MappingNode) else ():
        child, full = values._get_node(name.value), f"{prefix}{name.value}"
        if isinstance(child, DictConfig):
            _keep_text(child, written, f"{full}.")
        elif child is not None and _was_text(full, child._value()):
            values[name.value] = written.value


def _was_text(key: str, made: Any) -> bool:
    """Whether YAML made a number, or a truth value, of what is a text."""
    return _type_of(key) in (str, str | None) and isinstance(made, int | float)


def _parse_override(override: str) -> DictConfig:
    key, equals, written = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no '=': write {key}=VALUE")
    if not key:
        raise ConfigError(f"override {override!r} has no key: write KEY=VALUE")
    try:
        values = OmegaConf.from_dotlist([override])
        if _was_text(key, OmegaConf.select(values, key)):
            OmegaConf.update(values, key, written.strip())
        return values
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {override!r}: {' '.join(str(error).split())}") from None


def _merge(schema: Any, values: DictConfig, source: str) -> Any:
    _check_keys(values, Config, "", source)
    try:
        return OmegaConf.unsafe_merge(schema, values)  # without a copy of the schema
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, source)) from None
    except TypeError as error:  # a list's element, say
        raise ConfigError(f"{next(iter(values))} in {source}: {error}") from None


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


def _all_keys(kind: Any, prefix: str) -> list[str]:
    hints = get_type_hints(kind)
    keys = []
    for field in fields(kind):
        name = f"{prefix}{field.name}"
        inner = hints[field.name]
        keys += _all_keys(inner, f"{name}.") if is_dataclass(inner) else [name]
    return keys


def _explain(error: Exception, source: str) -> str:
    key = getattr(error, "full_key", None) or "a value"
    first = str(getattr(error, "msg", None) or error).splitlines()[0]
    wanted = _type_of(key.partition("[")[0])
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        first = f"{first.partition(', expected')[0]}; choose one of {', '.join(wanted.__members__)}"
    elif wanted is not None:
        first = f"{first.rstrip('.')} (expected {_type_name(wanted)})"
    return f"{key} in {source}: {first}"


def _type_name(kind: Any) -> str:
    return kind.__name__ if type(kind) is type else str(kind).replace("None", "null")


def _type_of(key: str) -> Any:
    """The annotated type of a full key; None for an unknown one."""
    kind: Any = Config
    for part in key.split("."):
        if not is_dataclass(kind):
            return None
        kind = get_type_hints(kind).get(part)
    return kind
