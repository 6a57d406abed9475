"""What an out-of-memory error of the device means for a run's settings."""

from dataclasses import dataclass

from anyscene.config import Config, Optimizer, Precision, Strategy
from anyscene.errors import RunFailedError

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
    """Settings that the run does not use yet. Those of activations come first: they are most of
    the memory as soon as images are large."""
    train = config.train
    found = []
    if not train.gradient_checkpointing:
        found.append("train.gradient_checkpointing=true (keeps few activations)")
    if train.precision is Precision.fp32:
        saved = gib(2 * held.frozen)
        found.append(f"train.precision=bf16 (half of the activations, {saved} of frozen weights)")
    if held.batch is not None and held.batch[0] > 1:
        found.append(
            f"train.accumulate={2 * train.accumulate} (micro-batches of {held.batch[0] // 2})"
        )
    if train.optimizer is Optimizer.adamw:
        found.append(f"train.optimizer=adamw8bit ({gib(6 * held.trained)}; in a new run)")
    if train.ema_decay > 0 and not train.ema_on_cpu:
        found.append(f"train.ema_on_cpu=true ({gib(4 * held.trained)})")
    ranks = train.devices * train.nodes
    if ranks > 1 and train.strategy is Strategy.ddp:
        stored = 4 if train.precision is Precision.fp32 else 2
        shared = (16 if train.ema_decay > 0 else 12) * held.trained + stored * held.frozen
        saved = gib(shared * (ranks - 1) // ranks)
        found.append(f"train.strategy=fsdp2 (about {saved}: {ranks} ranks share what each has now)")
    if not train.lora_rank:
        found.append("train.lora_rank=64 (trains adapters in place of all weights; in a new run)")
    return found


def gib(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB"
