"""What a checkpoint and the run that goes on with it must agree on, and what may be new."""

from collections.abc import Callable
from typing import Any

from diffusers import ControlNetModel

from anyscene.config import Config, TrainConfig
from anyscene.data.sources import data_identity
from anyscene.errors import ConfigError
from anyscene.models.injection import hint_kind, transformer_layers


def fixed_values(config: Config, fim: ControlNetModel | None) -> dict[str, Any]:
    """What a resume must not change: the order of samples, all draws or the weights' shapes depend
    on it."""
    data, train = config.data, config.train
    settings: Any = None if fim is None else fim.config
    return {
        "data.batch_size": data.batch_size,
        "data.shuffle_window": data.shuffle_window,
        "debug.overfit": config.debug.overfit,
        "train.seed": train.seed,
        "train.trainable": train.trainable.name,
        "train.injection": train.injection.name,
        "train.lora_rank": train.lora_rank,
        "train.modifier_tokens": dict(train.modifier_tokens),
        "train.optimizer": train.optimizer.name,
        "train.channels_last": train.channels_last,  # which the moments are stored in
        "train.zero_terminal_snr": train.zero_terminal_snr,
        "fim.hint": None if fim is None else hint_kind(fim).name,
        "fim.embedder_channels": settings and list(settings.conditioning_embedding_out_channels),
        "fim.transformer_layers": None if fim is None else transformer_layers(fim),
        **data_identity(data),
    }


def check_fixed(checkpoint: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `ConfigError` where a value that must not change has changed."""
    for key, value in checkpoint.get("fixed", {}).items():
        if key in now and now[key] != value:
            raise ConfigError(
                f"{key} is {now[key]}, but the checkpoint to go on from was made with {value}; "
                f"give {value} again, or start a run of another name"
            )


def check_base(checkpoint: dict[str, Any], path: str, sha256: str) -> None:
    """Raises `ConfigError` where the base at `path` has other weights than the checkpoint's."""
    stated = checkpoint["base_sha256"]
    if stated != sha256:
        raise ConfigError(
            f"the checkpoint was trained on a base with sha256 {stated[:16]}..., but "
            f"base.path={path!r} has {sha256[:16]}...; "
            "give the same base or start a run of another name"
        )


def use_new_rates(
    checkpoint: dict[str, Any], train: TrainConfig, factor: Callable[[int], float]
) -> None:
    """Let a resume have this configuration's rates; its states bring the old ones.

    `factor` is what the schedule makes of the peak rate at a step.
    """
    for state in checkpoint.get("lr_schedulers", []):
        state["base_lrs"] = [train.learning_rate] * len(state["base_lrs"])
    now = train.learning_rate * factor(checkpoint["global_step"])
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            group["lr"] = now
            group["initial_lr"] = train.learning_rate
            group["betas"] = (train.betas[0], train.betas[1])
            group["weight_decay"] = train.weight_decay
