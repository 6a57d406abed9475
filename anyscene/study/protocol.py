"""What a study asks of whom: the protocol, read from YAML and checked before anything is made."""

import re
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from anyscene.errors import ConfigError, nearest

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Criterion:
    """One question asked of every item."""

    name: str
    """Identifier in data base, tables and exports, such as `scene_harmony`."""
    title: str
    """Shown above the question."""
    question: str
    """Shown word for word."""


@dataclass(frozen=True)
class Scale:
    """Whole numbers from `low` to `high`; a rating study alone uses it."""

    low: int = 1
    high: int = 4
    """At most 9: each value is one key."""
    labels: tuple[str, ...] = ("poor", "fair", "good", "excellent")
    """One a value, from `low` to `high`."""


@dataclass(frozen=True)
class Option:
    """One possible answer: what is stored, the key that gives it, and what is shown."""

    value: int
    key: str
    label: str


@dataclass(frozen=True)
class Exclusion:
    """Who is left out of the second analysis; fixed before the first answer."""

    max_failed_checks: int = 1
    """Failed attention checks that are still forgiven; a check fails by any wrong value."""
    min_median_seconds: float = 3.0
    """Smallest believable median time of an item."""


@dataclass(frozen=True)
class Example:
    """A worked example of the instructions. Paths are relative to the protocol's file."""

    foreground: str
    image: str
    caption: str


@dataclass(frozen=True)
class Protocol:
    """A whole study. Every field can be set in the YAML file; those without default must be."""

    name: str
    """Identifier of the study."""
    title: str
    """Shown to annotators."""
    criteria: tuple[Criterion, ...]
    """Asked in this order."""
    foregrounds: int
    """Composited foregrounds, the distinct `scene_id`s of each manifest."""
    prompts: int
    """Prompts for each foreground."""
    images_per_prompt: int
    """Images for each foreground and prompt, of every method."""
    sets: int
    """Groups that the images are dealt into; a person rates whole sets."""
    annotators: int
    """People, and private links."""
    ratings_per_image: int
    """People who rate each image (rating) or pair of images (pairwise)."""
    consent: str
    """What an annotator agrees to; an empty line starts a paragraph."""
    instructions: str
    """Shown before the first item and whenever asked for; paragraphs as above."""
    kind: Literal["rating", "pairwise"] = "rating"
    """One image a time on the scale, or two images of two methods side by side."""
    ties: bool = False
    """Whether `no difference` is an answer; a pairwise study alone uses it."""
    scale: Scale = field(default_factory=Scale)
    attention_checks: int = 0
    """For each person: items whose image says which value to give."""
    repeats: int = 0
    """For each person: items shown a second time, for self-consistency."""
    exclusion: Exclusion = field(default_factory=Exclusion)
    seconds_per_item: float = 12.0
    """Expected, all criteria together; for the estimate of the duration alone."""
    seed: int = 0
    """Of the random order, together with the study's own secret."""
    examples: tuple[Example, ...] = ()
    """None: drawn ones."""
    contact: str = ""
    """Whom annotators may ask."""

    @property
    def cells(self) -> int:
        """Images of each method: foregrounds x prompts x images a prompt."""
        return self.foregrounds * self.prompts * self.images_per_prompt

    @property
    def options(self) -> tuple[Option, ...]:
        """The answers to choose from, in their order on the screen."""
        if self.kind == "rating":
            values = range(self.scale.low, self.scale.high + 1)
            pairs = zip(values, self.scale.labels, strict=True)
            return tuple(Option(value, str(value), label) for value, label in pairs)
        sides = {-1: "left", 0: "no difference", 1: "right"}
        values = [value for value in sides if value or self.ties]
        return tuple(Option(value, str(n), sides[value]) for n, value in enumerate(values, start=1))

    @property
    def values(self) -> tuple[int, ...]:
        """What an answer may be; of a pair -1 is the first, 1 the second, 0 no difference."""
        return tuple(option.value for option in self.options)

    def items(self, methods: int) -> int:
        """Different things to rate: images, or pairs of images of the same foreground and prompt.

        Checks and repeats are not among them.
        """
        return self.cells * (methods if self.kind == "rating" else methods * (methods - 1) // 2)


def read_protocol(path: Path) -> Protocol:
    """The protocol of a YAML file.

    Raises:
        ConfigError: one line with the key, the value and the fix.
    """
    if not path.is_file():
        raise ConfigError(f"no protocol file {str(path)!r}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return parse_protocol(values, str(path))


def parse_protocol(values: Any, source: str) -> Protocol:
    """A checked protocol of plain values; `source` is what errors call them."""
    protocol = _build(Protocol, values, "", source)
    try:
        check_protocol(protocol)
    except ConfigError as error:
        raise ConfigError(f"{error} ({source})") from None
    return protocol


def check_protocol(protocol: Protocol) -> None:
    """Values out of range, and values that cannot go together."""
    _check_ranges(protocol)
    for key, name in [("name", protocol.name), *(("criteria", c.name) for c in protocol.criteria)]:
        if not IDENTIFIER.fullmatch(name):
            raise ConfigError(f"{key}: {name!r} must be of a-z, 0-9 and _, and begin with a letter")
    names = [criterion.name for criterion in protocol.criteria]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"criteria={names} must be one or more, each with a name of its own")
    scale = protocol.scale
    if not 0 <= scale.low < scale.high <= 9:
        raise ConfigError(f"scale={scale.low}..{scale.high} must rise within 0..9, a key a value")
    if len(scale.labels) != scale.high - scale.low + 1:
        raise ConfigError(
            f"scale.labels has {len(scale.labels)} labels for the "
            f"{scale.high - scale.low + 1} values {scale.low}..{scale.high}; give one a value"
        )
    if protocol.sets > protocol.cells:
        raise ConfigError(
            f"sets={protocol.sets} is more than foregrounds x prompts x images_per_prompt = "
            f"{protocol.cells}; use at most {protocol.cells}"
        )
    if protocol.ratings_per_image > protocol.annotators:
        raise ConfigError(
            f"ratings_per_image={protocol.ratings_per_image} needs as many different people, "
            f"annotators={protocol.annotators}"
        )
    if protocol.sets * protocol.ratings_per_image < protocol.annotators:
        raise ConfigError(
            f"sets x ratings_per_image = {protocol.sets} x {protocol.ratings_per_image} leaves "
            f"some of annotators={protocol.annotators} without a set; use more sets"
        )


def _check_ranges(protocol: Protocol) -> None:
    counts = ("foregrounds", "prompts", "images_per_prompt", "sets", "annotators")
    for key in (*counts, "ratings_per_image", "seconds_per_item"):
        value = getattr(protocol, key)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{key}={value} must be greater than 0")
    for key in ("attention_checks", "repeats", "seed"):
        if getattr(protocol, key) < 0:
            raise ConfigError(f"{key}={getattr(protocol, key)} must not be negative")
    for key in ("max_failed_checks", "min_median_seconds"):
        value = getattr(protocol.exclusion, key)
        if not 0 <= value < float("inf"):
            raise ConfigError(f"exclusion.{key}={value} must not be negative")


def _build(kind: type, values: Any, prefix: str, source: str) -> Any:
    """An instance of a dataclass from a mapping with exactly its keys and types."""
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix.rstrip('.') or 'the top'} in {source} must be `key: value`s")
    known = {own.name: own for own in fields(kind)}
    hints = get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{prefix}{key}' in {source}{nearest(str(key), known)}")
    for name, own in known.items():
        if name not in values and own.default is MISSING and own.default_factory is MISSING:
            raise ConfigError(f"{prefix}{name} has no value: set it in {source}")
    arguments = {
        key: _convert(hints[key], value, f"{prefix}{key}", source) for key, value in values.items()
    }
    return kind(**arguments)


def _convert(wanted: Any, value: Any, key: str, source: str) -> Any:
    if is_dataclass(wanted) and isinstance(wanted, type):
        return _build(wanted, value, f"{key}.", source)
    if get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{key} in {source} must be a list, not {value!r}")
        inner = get_args(wanted)[0]
        return tuple(_convert(inner, one, f"{key}[{n}]", source) for n, one in enumerate(value))
    if get_origin(wanted) is Literal:
        choices = get_args(wanted)
        if value not in choices:
            raise ConfigError(f"{key}={value!r} in {source}: choose one of {', '.join(choices)}")
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        name = getattr(wanted, "__name__", wanted)
        raise ConfigError(f"{key}={value!r} in {source} must be of type {name}")
    return value
