"""What an out-of-memory error of the device means for a run's settings."""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from anyscene.config import Config, Optimizer, Precision, Strategy
from anyscene.config_checks import check_config
from anyscene.errors import ConfigError, RunFailedError

GIB = 2**30


@dataclass(frozen=True)
class Held:
    """What was on the device: numbers of weights, and B, height and width of the last batch."""

    trained: int
    frozen: int
    batch: tuple[int, int, int] | None  # None: before the first one


def out_of_memory(config: Config, held: Held) -> RunFailedError:
    """The error to raise in its place: batch, resolution, and what would help, most first."""
    what = "its networks"
    if held.batch is not None:
        samples, height, width = held.batch
        what = f"a micro-batch of {samples} images of {height}x{width}"
    helping = "; ".join(remedies(config, held)) or "smaller images, or a device with more memory"
    return RunFailedError(
        f"the device's memory is not enough for {what}. What would help, most first: {helping}. "
        "`anyscene train CONFIG --dry-run` counts it without a device"
    )


def remedies(config: Config, held: Held) -> list[str]:
    """Settings that the run does not use yet and could. Those of activations come first: they are
    most of the memory as soon as images are large."""
    train = config.train
    found: list[tuple[str, Any, str]] = []  # key, new value, what it saves
    if not train.gradient_checkpointing:
        found.append(("gradient_checkpointing", True, "keeps few activations"))
    if train.precision is Precision.fp32:
        saved = f"half of the activations, {gib(2 * held.frozen)} of frozen weights"
        found.append(("precision", Precision.bf16, saved))
    if held.batch is not None and held.batch[0] > 1:
        samples = held.batch[0]
        parts = next(number for number in range(2, samples + 1) if samples % number == 0)
        saved = f"micro-batches of {samples // parts}"
        found.append(("accumulate", parts * train.accumulate, saved))
    if train.optimizer is Optimizer.adamw:
        saved = f"{gib(6 * held.trained)}; in a new run"
        found.append(("optimizer", Optimizer.adamw8bit, saved))
    if train.ema_decay > 0 and not train.ema_on_cpu:
        found.append(("ema_on_cpu", True, gib(4 * held.trained)))
    ranks = train.devices * train.nodes
    if ranks > 1 and train.strategy is Strategy.ddp:
        stored = 4 if train.precision is Precision.fp32 else 2
        shared = (16 if train.ema_decay > 0 else 12) * held.trained + stored * held.frozen
        saved = f"about {gib(shared * (ranks - 1) // ranks)}: {ranks} ranks share what each has now"
        found.append(("strategy", Strategy.fsdp2, saved))
    if not train.lora_rank:
        found.append(("lora_rank", 64, "trains adapters in place of all weights; in a new run"))
    return [
        f"train.{key}={in_words(value)} ({saved})"
        for key, value, saved in found
        if is_allowed(replace(config, train=replace(train, **{key: value})))
    ]


def is_allowed(config: Config) -> bool:
    """Whether a run may have this configuration."""
    try:
        check_config(config)
    except ConfigError:
        return False
    return True


def in_words(value: Any) -> str:
    """A value as in a config file."""
    return value.name if isinstance(value, Enum) else str(value).lower()


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB"
