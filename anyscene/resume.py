"""What a checkpoint and the run that goes on with it must agree on, and what may be new."""

from collections.abc import Callable
from typing import Any

from diffusers import ControlNetModel

from anyscene.config import Config, Trainable, TrainConfig
from anyscene.data.sources import data_identity
from anyscene.errors import ConfigError
from anyscene.models.base import weights_sha256
from anyscene.models.injection import hint_kind, transformer_layers

FIM_SHA256 = "sha256 of fim.init"


def frozen_fim_sha256(config: Config, fim: ControlNetModel | None) -> str | None:
    """Hash of a FIM to begin with of which weights stay frozen, for no checkpoint holds them."""
    stays = config.train.lora_rank > 0 or config.train.trainable is not Trainable.fim
    return weights_sha256(fim) if fim and stays and config.fim.init is not None else None


def fixed_values(
    config: Config, fim: ControlNetModel | None, fim_sha256: str | None
) -> dict[str, Any]:
    """What a resume must not change: the order of samples and all draws depend on it, or what the
    checkpoint's weights fit. `fim_sha256` is that of a FIM to begin with that stays frozen."""
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
        FIM_SHA256: fim_sha256,
        **data_identity(data),
    }


def check_resume(
    checkpoint: dict[str, Any], now: dict[str, Any], base: str, base_sha256: str
) -> None:
    """Raises `ConfigError` where a value that must not change has changed, or where the `base`, a
    folder or hub id, has other weights than the checkpoint's."""
    for key, value in checkpoint.get("fixed", {}).items():
        if key in now and now[key] != value:
            raise ConfigError(
                f"{key} is {now[key]}, but the checkpoint to go on from was made with {value}; "
                f"give {value} again, or start a run of another name"
            )
    stated = checkpoint["base_sha256"]
    if stated != base_sha256:
        raise ConfigError(
            f"the checkpoint was trained on a base with sha256 {stated[:16]}..., but "
            f"base.path={base!r} has {base_sha256[:16]}...; "
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
