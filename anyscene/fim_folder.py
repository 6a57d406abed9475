"""What an export says of itself, on the hub too; and one of the FIM alone (`export --no-base`): the
base that it names, and the FIM on it."""

from pathlib import Path
from typing import Any

from diffusers import ControlNetModel
from huggingface_hub import hf_hub_download

from anyscene.compositing.hint import HINT_VERSION
from anyscene.errors import InputError
from anyscene.export_record import EXPORT_NAME, read_export_record
from anyscene.models.loading import load_base, load_weights

HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download")
"""Arguments of `from_pretrained` that say where and which files of a hub id are."""


def record_of(model: Path | str, **options: Any) -> dict[str, Any] | None:
    """`anyscene.json` of an export's folder or hub id; None where it has none, or cannot be had.

    `options` are those of `from_pretrained`. Raises as `read_export_record`.
    """
    if Path(model).is_dir():
        return read_export_record(Path(model))
    known = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        return read_export_record(Path(hf_hub_download(str(model), EXPORT_NAME, **known)).parent)
    except (OSError, ValueError):  # another model, no such id, no network: the model's own error
        return None


def check_hint_version(folder: Path | str, record: dict[str, Any]) -> None:
    """Raises `InputError` where an export's FIM was trained on another version of the hint."""
    if record["hint"] and record["hint_version"] != HINT_VERSION:
        raise InputError(
            f"{folder} was trained on hints of version {record['hint_version']}, this software "
            f"makes version {HINT_VERSION}: use the version that exported it, or train again"
        )


def load_fim_folder(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The parts of a pipeline, in float32, of an export that holds the FIM only.

    Raises `InputError` where the base that its record names is missing or has other weights, or
    where the FIM is incomplete.
    """
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
    return base.components() | {"controlnet": fim}
