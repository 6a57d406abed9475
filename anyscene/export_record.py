"""What is known of an export without loading it: `anyscene.json`, checks, figures, licence."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from anyscene.errors import InputError

EXPORT_NAME = "anyscene.json"
EXPORT_VERSION = 1
MODEL_INDEX = "model_index.json"
HUB_OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download")
"""Arguments of `from_pretrained` that say where and which files of a hub id are."""
STEP_FOLDER = re.compile(r"step-(\d+)")


def check_export(run: Path, out: Path, checkpoint: Path | None, *, overwrite: bool) -> None:
    """Raises `InputError` unless `run` is a run, `checkpoint` is there and `out` may be written."""
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} is no run folder: it has no config.yaml of `anyscene train`")
    if checkpoint is not None and not checkpoint.exists():
        raise InputError(f"no checkpoint {checkpoint}")
    if not out.name:
        raise InputError(f"--out {out} is no folder's name; give one, such as models/mine")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / EXPORT_NAME).is_file():  # a base, say, which `overwrite` would delete
        raise InputError(f"{out} exists and holds something else; choose another folder")
    if not overwrite:
        raise InputError(f"{out} holds an export; give --overwrite to replace it")


def read_export_record(model: Path | str, **options: Any) -> dict[str, Any] | None:
    """`anyscene.json` of an export's folder or hub id; None where it has none, or cannot be had.

    `options` are those of `from_pretrained`.

    Raises:
        InputError: the file is damaged or of another version of this software.
    """
    folder = Path(model)
    path = folder / EXPORT_NAME if folder.is_dir() else _fetch(str(model), options)
    if path is None or not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); export the run again") from None
    version = record.get("version") if isinstance(record, dict) else None
    if version != EXPORT_VERSION:
        raise InputError(
            f"{path} has version {version}, this software reads {EXPORT_VERSION}: export again"
        )
    return record


def _fetch(hub_id: str, options: dict[str, Any]) -> Path | None:
    """A hub id's file in the hub's cache; None for another model's, or where it is out of reach,
    of which loading the model tells."""
    from huggingface_hub import hf_hub_download

    known = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    try:
        return Path(hf_hub_download(hub_id, EXPORT_NAME, **known))
    except (OSError, ValueError):
        return None


def run_figures(run: Path, step: int) -> tuple[int | None, dict[str, float]]:
    """The step and the figures of the run's last validation up to `step`; None, {} without any."""
    found = {
        int(match[1]): path
        for path in (run / "samples").glob("step-*/metrics.json")
        if (match := STEP_FOLDER.fullmatch(path.parent.name)) and int(match[1]) <= step
    }
    if not found:
        return None, {}
    last = max(found)
    figures = json.loads(found[last].read_text())
    return last, {name: value for name, value in figures.items() if value is not None}


def card_licence(card: Path) -> str | None:
    """The licence in the header of a model card; None where there is no card or it names none."""
    if not card.is_file():
        return None
    header = re.match(r"---\n(.*?)\n---", card.read_text(), re.DOTALL)
    values = yaml.safe_load(header[1]) if header else None
    if not isinstance(values, dict):
        return None
    name = values.get("license_name") or values.get("license")
    return None if name is None else str(name)
