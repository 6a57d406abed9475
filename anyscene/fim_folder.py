"""An export of the FIM alone (`export --no-base`): the base that it names, and the FIM on it."""

from pathlib import Path
from typing import Any

from diffusers import ControlNetModel

from anyscene.compositing.hint import HINT_VERSION
from anyscene.errors import InputError
from anyscene.models.loading import load_base, load_weights


def check_hint_version(folder: Path | str, record: dict[str, Any]) -> None:
    """Raises `InputError` where an export's FIM was trained on another version of the hint."""
    if record["hint"] and record["hint_version"] != HINT_VERSION:
        raise InputError(
            f"{folder} was trained on hints of version {record['hint_version']}, this software "
            f"makes version {HINT_VERSION}: use the version that exported it, or train again"
        )


def load_fim_folder(
    folder: Path, record: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The parts of a pipeline, in float32, of an export that holds the FIM only; those that
    `options` of `from_pretrained` hold are taken from there.

    Raises `InputError` where the base that its record names is missing or has other weights, where
    the FIM is incomplete, and for a `device_map`, which would have no effect.
    """
    if options.get("device_map") is not None:
        raise InputError(
            f"device_map={options['device_map']!r} cannot be given with {folder}, which holds the "
            "FIM alone; use .to(DEVICE) or enable_model_cpu_offload() of the pipeline"
        )
    stated = record["base"]
    path, first_stage = (
        str((folder / name).resolve()) if name and (folder / name).is_dir() else name
        for name in (stated["path"], stated["first_stage"])
    )
    base = load_base(path, stated["revision"], first_stage)
    if base.sha256() != stated["sha256"]:
        raise InputError(
            f"{folder} was trained on a base with sha256 {stated['sha256'][:16]}..., "
            f"but {path} has {base.sha256()[:16]}...: give the base it names"
        )
    fim = load_weights(ControlNetModel, str(folder), "model", subfolder="controlnet")
    parts = base.components() | {"controlnet": fim}
    return parts | {name: part for name, part in options.items() if name in parts}
