"""`anyscene export`: a run's checkpoint as a folder that stock diffusers pipelines load."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn

from anyscene.checkpoint import check_checkpoint, last_good_checkpoint, read_checkpoint
from anyscene.compositing.hint import HINT_VERSION
from anyscene.config import Config, Trainable
from anyscene.config_io import read_config
from anyscene.data.sample import MANIFEST_NAME
from anyscene.errors import InputError
from anyscene.export_record import (
    EXPORT_NAME,
    EXPORT_VERSION,
    card_licence,
    check_export,
    run_figures,
)
from anyscene.files import sha256_of, told_as_mistake, write_json
from anyscene.model_card import model_card
from anyscene.models.base import vae_factor
from anyscene.models.concepts import merge_words
from anyscene.models.injection import hint_kind
from anyscene.models.lora import lora_weights, merge_lora
from anyscene.models.trained import load_named, trained_names
from anyscene.module import SceneModule
from anyscene.new_folder import new_folder
from anyscene.records import run_record
from anyscene.resume import FIM_SHA256

AVERAGE = "MovingAverage"  # the EMA callback's key in a checkpoint
LORA_FOLDER = "lora"  # of an export: the UNet's adapters alone, in diffusers' format


@dataclass(frozen=True)
class Trained:
    """A run's weights in the live modules, and what its checkpoint says of them."""

    config: Config
    module: SceneModule
    step: int
    data_manifest_sha256: str | None


def export(
    run: Path,
    out: Path,
    *,
    checkpoint: Path | None = None,
    with_base: bool = True,
    half: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the run's model to the folder `out` and return it. Deterministic and atomic.

    Args:
        run: a run folder of `anyscene train`.
        out: a new folder; with `overwrite` also one that holds an export.
        checkpoint: the one to export; None: the newest undamaged one. The moving average is taken
            where there is one.
        with_base: a complete pipeline; otherwise the FIM alone, with the base's name and hash.
        half: weights as float16, but for the text encoder, which transformers would load as such.

    Raises:
        InputError: no run, no checkpoint, `out` is taken or cannot be written, or the weights do
            not fit float16.
        DamageError: `checkpoint` is damaged.
    """
    check_export(run, out, checkpoint, overwrite=overwrite)
    with new_folder(out, "export") as part:
        check_export(run, out, checkpoint, overwrite=overwrite)  # another one may just have ended
        _fill(part, run, out, checkpoint, with_base=with_base, half=half)
    return out


@contextmanager
def _told_in_a_line(out: Path) -> Iterator[None]:
    """Raises `InputError` where the disk refuses what is written of `out`, of weights too."""
    try:
        with told_as_mistake(out):
            yield
    except SafetensorError as error:
        raise InputError(f"{out}: {error}") from None


def _fill(
    part: Path, run: Path, out: Path, checkpoint: Path | None, *, with_base: bool, half: bool
) -> None:
    """Write the export of a run into the folder `part`, which will be `out`."""
    trained = load_trained(run, checkpoint)
    if not with_base and trained.config.train.trainable is not Trainable.fim:
        raise InputError(f"{run} trained the base's UNet, no FIM alone: leave --no-base out")
    adapters = None
    if trained.config.train.lora_rank:
        adapters = lora_weights(trained.module.trained)
        merge_lora(trained.module.trained)
    merge_words(trained.module.base.text_parts())
    if half:
        _round_to_half(trained.module, with_base)
    with _told_in_a_line(out):
        _save_weights(trained.module, part, with_base)
        if adapters is not None and trained.config.train.trainable is Trainable.unet:
            _save_adapters(trained.module, adapters, part / LORA_FOLDER)
    record = export_record(trained, run, out, with_base)
    with _told_in_a_line(out):
        write_json(part / EXPORT_NAME, record)
        (part / "README.md").write_text(model_card(record, with_base=with_base, half=half))


def load_trained(run: Path, checkpoint: Path | None = None) -> Trained:
    """The modules of a run with the weights of a checkpoint, averaged ones where it has them."""
    config = read_config(run / "config.yaml")
    path = checkpoint or last_good_checkpoint(run / "checkpoints")
    if path is None:
        raise InputError(f"{run} has no checkpoint yet; `anyscene train` writes the first one")
    check_checkpoint(path)
    state = read_checkpoint(path)
    _check_run(run, path, state)
    module = SceneModule(config)
    if state["base_sha256"] != module.base_sha256:
        raise InputError(
            f"{path} was trained on a base with sha256 {state['base_sha256'][:16]}..., but "
            f"{config.base.path} has {module.base_sha256[:16]}...: restore the base it began with"
        )
    fixed = state.get("fixed", {})
    if fixed.get(FIM_SHA256) != module.fim_sha256 and FIM_SHA256 in fixed:
        raise InputError(
            f"{path} was trained from a FIM with other weights than fim.init={config.fim.init!r} "
            "has now: restore the one it began with"
        )
    try:
        load_named(module.trained, trained_names(module.trained), _weights(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} holds other weights than {run}/config.yaml trains ({reason}): it is of "
            "another run"
        ) from None
    module.requires_grad_(False).eval()
    recorded = fixed.get("sha256 of data.train's manifest")
    return Trained(
        config, module, int(state["global_step"]), recorded or _manifest_sha256(config.data.train)
    )


def _check_run(run: Path, checkpoint: Path, state: dict[str, Any]) -> None:
    """Raises `InputError` where a checkpoint says that it is of another run, whose configuration
    and figures the export would not have."""
    own, its = run_record(run).get("run_id"), state.get("identity", {}).get("run_id")
    if own is not None and its is not None and own != its:
        raise InputError(f"{checkpoint} is of the run {its}, not of {own} in {run}: give its RUN")


def _weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What was trained, by the names of the trained module."""
    average = state["callbacks"].get(AVERAGE)
    prefix, values = ("module.", average) if average else ("trained.", state["state_dict"])
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def _manifest_sha256(shards: str) -> str | None:
    manifest = Path(shards) / MANIFEST_NAME
    return sha256_of(manifest) if manifest.is_file() else None


def _round_to_half(module: SceneModule, with_base: bool) -> None:
    parts: dict[str, nn.Module | None] = {"the FIM": module.injection}
    if with_base:
        parts |= {"the UNet": module.base.unet, "the first stage": module.base.vae}
    for name, part in parts.items():
        if part is None:
            continue
        part.half()
        if not all(value.isfinite().all() for value in part.state_dict().values()):
            raise InputError(f"weights of {name} do not fit float16: export without --half")


def export_record(trained: Trained, run: Path, out: Path, with_base: bool) -> dict[str, Any]:
    """What `anyscene.json` says.

    `base.sha256` is that of UNet, first stage and text encoder as a pipeline of this export has
    them: rounded by `half`, and with the UNet that a UNet run trained.
    """
    config, base, fim = trained.config, trained.module.base, trained.module.injection
    figures_step, figures = run_figures(run, trained.step)
    first_stage = config.base.first_stage
    unet: Any = base.unet
    return {
        "version": EXPORT_VERSION,
        "hint_version": HINT_VERSION,
        "hint": None if fim is None else hint_kind(fim).name,
        "base": {
            "path": _seen_from(out, config.base.path),
            "revision": config.base.revision,
            "first_stage": None if first_stage is None else _seen_from(out, first_stage),
            "sha256": base.sha256() if with_base else trained.module.base_sha256,
            "licence": base_licence(config.base.path, config.base.revision),
        },
        "is_xl": base.is_xl,
        "lora_rank": config.train.lora_rank,
        "prediction_type": base.scheduler.config["prediction_type"],
        "vae_factor": vae_factor(base.vae),
        "image_size": unet.config.sample_size * vae_factor(base.vae),
        "config": json.loads(json.dumps(asdict(config), default=lambda choice: choice.name)),
        "figures": figures,
        "figures_step": figures_step,
        "data_manifest_sha256": trained.data_manifest_sha256,
        "step": trained.step,
    }


def _seen_from(out: Path, path: str) -> str:
    """A local folder as a path relative to `out`; a hub id as it is."""
    folder = Path(path)
    return os.path.relpath(folder.resolve(), out.resolve()) if folder.is_dir() else path


def base_licence(path: str, revision: str | None) -> str | None:
    """The licence that the base's model card names; None where there is none to be had."""
    if Path(path).is_dir():
        return card_licence(Path(path) / "README.md")
    try:
        return card_licence(Path(hf_hub_download(path, "README.md", revision=revision)))
    except (OSError, ValueError):  # no card, or no network: the base itself came from the cache
        return None


def _save_weights(module: SceneModule, folder: Path, with_base: bool) -> None:
    fim = module.injection
    if not with_base:
        assert fim is not None
        fim.save_pretrained(folder / "controlnet")
    else:
        parts = module.base.components() | ({} if fim is None else {"controlnet": fim})
        stock_pipeline(parts).save_pretrained(folder)
    for path in folder.glob("*/config.json"):
        _forget_origin(path)


def _save_adapters(module: SceneModule, adapters: dict[str, torch.Tensor], folder: Path) -> None:
    """What `load_lora_weights` of a stock pipeline takes, for the base as it was."""
    kind: Any = StableDiffusionXLPipeline if module.base.is_xl else StableDiffusionPipeline
    kind.save_lora_weights(folder, unet_lora_layers=adapters)


def stock_pipeline(parts: dict[str, Any]) -> DiffusionPipeline:
    """The stock pipeline of a base's parts, of Stable Diffusion or SDXL, with or without a FIM."""
    kind: Any
    if "text_encoder_2" in parts:
        guided, plain = StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
        off = {"add_watermarker": False}
    else:
        guided, plain = StableDiffusionControlNetPipeline, StableDiffusionPipeline
        off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = guided if "controlnet" in parts else plain
    return kind(**parts, **off)


def _forget_origin(path: Path) -> None:
    """Take the folder that a part was loaded from out of its config."""
    values = json.loads(path.read_text())
    if values.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
