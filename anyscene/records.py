"""The records of a run: `run.json`, and `step-XXXXXXXX.json` beside a checkpoint. No torch here."""

import json
from pathlib import Path
from typing import Any

from anyscene.errors import DamageError, InputError

KINDS: dict[str, type] = {"step": int, "bytes": int, "sha256": str}
"""What the record of a checkpoint says; of one in shares, `shares` lists their names, too."""


def run_record(run: Path) -> dict[str, Any]:
    """`run.json` of a run folder, or nothing where the run is new. Raises `InputError` if it is
    damaged."""
    path = run / "run.json"
    if not path.is_file():
        return {}
    try:
        return _read_object(path)
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); restore it from a backup, or move it away: the newest "
            "checkpoint knows the run's ids"
        ) from None


def is_finished(checkpoint: Path) -> bool:
    """Whether there is a record, which comes last."""
    return checkpoint.with_suffix(".json").is_file()


def checkpoint_record(checkpoint: Path) -> dict[str, Any]:
    """The record of a checkpoint. Raises `DamageError` where there is none, or it is damaged."""
    path = checkpoint.with_suffix(".json")
    try:
        stated = _read_object(path)
        for name, kind in (KINDS | ({"shares": list} if "shares" in stated else {})).items():
            if not isinstance(stated.get(name), kind):
                raise ValueError(f"no {name}")
    except FileNotFoundError:
        raise DamageError(f"{checkpoint} has no {path.name}: it was never finished") from None
    except ValueError as error:
        raise DamageError(f"{checkpoint} has a damaged record {path.name} ({error})") from None
    return stated


def _read_object(path: Path) -> dict[str, Any]:
    """Raises `ValueError` where the file is no JSON, no text, or no object."""
    value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value
