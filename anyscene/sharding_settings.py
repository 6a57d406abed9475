"""What cannot go with weights that the ranks share. No torch here."""

from anyscene.config import Config, Optimizer, Precision, Strategy, Trainable


def sharding_mistake(config: Config) -> str | None:
    """The first thing that `train.strategy=fsdp2` cannot go with, why, and what to use instead."""
    train = config.train
    if train.strategy is not Strategy.fsdp2:
        return None
    ranks = train.devices * train.nodes
    refused = [  # whether, what it is, why, instead
        (
            ranks == 1,
            "train.devices x train.nodes=1",
            "one rank has nobody to share with",
            "more, or train.strategy=ddp",
        ),
        (
            train.precision is Precision.fp16,
            "train.precision=fp16",
            "the scale of the loss would have to be agreed on",
            "bf16",
        ),
        (
            train.optimizer is Optimizer.adamw8bit,
            "train.optimizer=adamw8bit",
            "bitsandbytes does not know shared weights",
            "adamw",
        ),
        (train.ema_on_cpu, "train.ema_on_cpu=true", "the ranks share the average too", "false"),
        (
            train.lora_rank > 0,
            f"train.lora_rank={train.lora_rank}",
            "adapters are small and their base is stored in 16 bits",
            "train.strategy=ddp",
        ),
        (
            train.trainable is Trainable.cross_attention_kv,
            "train.trainable=cross_attention_kv",
            "what it trains is small, and new words are in a network that is not shared",
            "train.strategy=ddp",
        ),
        (train.compile, "train.compile=true", "they have not been tried together", "false"),
        (
            train.channels_last,
            "train.channels_last=true",
            "weights are cut along their rows in memory",
            "false",
        ),
        (
            config.debug.overfit > 0,
            f"debug.overfit={config.debug.overfit}",
            "one rank alone draws what was learnt",
            "train.strategy=ddp",
        ),
    ]
    for applies, what, reason, instead in refused:
        if applies:
            return f"train.strategy=fsdp2 cannot go with {what} ({reason}); use {instead}"
    return None
