"""JSON-lines manifests: what follows an export reads and writes nothing else. No torch here."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from anyscene.errors import DamageError, InputError
from anyscene.files import named_in_errors

MANIFEST_VERSION = 1


class GenerationLine(TypedDict):
    """One generated image. Paths are relative to the manifest's folder."""

    version: int
    scene_id: str  # the composited foreground, or the text-only scene
    prompt: str
    negative_prompt: str
    seed: int
    method: str  # which system made it
    model: str  # folder or hub id
    model_sha256: str  # of all weights and the scheduler's settings, see `image_jobs.model_sha256`
    canvas: str | None  # RGBA, at the size of the image; None: text only
    canvas_sha256: str | None
    mask: str | None  # grey, 255 = foreground
    height: int
    width: int
    steps: int
    scheduler: str  # class of the scheduler in the model's folder
    guidance_scale: float
    foreground_guidance_scale: float
    layout: dict[str, float] | None  # strengths and spans, see `layout_settings`; None: off
    blend: dict[str, Any] | None  # mode and k; None: off
    dtype: str  # fp32, bf16 or fp16
    device: str  # cpu or cuda, and which
    threads: int
    micro_batch: int
    image: str
    image_raw: str  # before blending
    sha256: str
    sha256_raw: str
    versions: dict[str, str]


WHAT_WAS_ASKED = (
    "version",
    "scene_id",
    "prompt",
    "negative_prompt",
    "seed",
    "method",
    "model_sha256",
    "canvas_sha256",
    "height",
    "width",
    "steps",
    "scheduler",
    "guidance_scale",
    "foreground_guidance_scale",
    "layout",
    "blend",
    "dtype",
)
"""The fields that make an image what it is. The machine's, `micro_batch` among them, decide about
its last bits only."""


def identity(line: Mapping[str, Any]) -> str:
    """A hash of what was asked for: equal for two lines whose images mean the same."""
    asked = json.dumps({key: line[key] for key in WHAT_WAS_ASKED}, sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a torn last line (a crash while writing) is left out.

    Raises:
        InputError: no such file.
        DamageError: another line is no JSON object.
    """
    if not path.is_file():
        raise InputError(f"no manifest {path}")
    pieces = path.read_bytes().split(b"\n")
    lines = []
    for number, piece in enumerate(pieces, start=1):
        value = _parse(piece)
        if value is not None:
            lines.append(value)
        elif piece.strip() and number < len(pieces):
            raise DamageError(f"line {number} of {path} is no JSON object: the file is damaged")
    return lines


def append_line(path: Path, line: Any) -> None:
    """Add an object to a JSON-lines file, on disk when this returns; a torn last line goes."""
    data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
    with named_in_errors(path), path.open("a+b") as file:
        _end_last_line(file)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_generation_manifest(path: Path) -> list[GenerationLine]:
    """The images that a manifest lists.

    Raises:
        InputError: no such file, or one of another kind or version.
        DamageError: a line that is no JSON.
    """
    lines: list[Any] = read_lines(path)
    for number, line in enumerate(lines, start=1):
        missing = sorted(GenerationLine.__annotations__.keys() - line.keys())
        if missing:
            raise InputError(f"line {number} of {path} is no generated image: no {missing[0]!r}")
        if line["version"] != MANIFEST_VERSION:
            raise InputError(
                f"line {number} of {path} has version {line['version']}, "
                f"this software reads {MANIFEST_VERSION}"
            )
    return lines


def _parse(piece: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(piece)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _end_last_line(file: Any) -> None:
    """Let what is appended start on a line of its own."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) in (b"", b"\n"):
        return
    file.seek(0)
    before, newline, last = file.read().rpartition(b"\n")
    if _parse(last) is None:
        file.truncate(len(before) + len(newline))
    else:
        file.write(b"\n")
