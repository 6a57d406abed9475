"""A benchmark's folder: frozen scenes with their checksums. No torch here.

benchmark.json    what made it, how many scenes of what, and every file's sha256
scenes.jsonl      one scene a line, see `BenchmarkScene`
canvas/ID.png     the composited foreground, RGBA; masks/ID.png its alpha; elements/ID.png which
                  element a pixel belongs to, 1..n, 0 none
real/KEY.png      the real scene of every image that gave an element: the reference of FID
README.md         the data card
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of
from anyscene.manifest import read_lines

FORMAT = "anyscene-benchmark"
VERSION = 1
RECORD_NAME, SCENES_NAME, CARD_NAME = "benchmark.json", "scenes.jsonl", "README.md"
REAL = "real"  # folder
ORIGINAL, RECOMBINED = "original", "recombined"
LAYOUTS = (ORIGINAL, RECOMBINED)


class SceneElement(TypedDict):
    """One element of a canvas."""

    category: str
    box_xywh: list[int]  # pixels of the canvas
    area_share: float  # of the canvas, [0, 1]
    image_id: int  # where it comes from
    annotation_id: int


class BenchmarkScene(TypedDict):
    """One line of `scenes.jsonl`. Paths are relative to the benchmark's folder."""

    scene_id: str
    layout: str  # original: as in the image; recombined: elements of several images
    prompt: str
    height: int
    width: int
    canvas: str
    mask: str
    elements_map: str
    elements: list[SceneElement]
    real: str | None  # the real scene; None: a recombined one has none
    source_images: list[int]  # the first one's caption is in the prompt
    licences: list[str]  # of the source images
    truth: dict[str, Any] | None  # of procedural scenes in their own layout


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was read from its folder."""

    folder: Path
    record: dict[str, Any]
    scenes: list[BenchmarkScene]

    @property
    def sha256(self) -> str:
        """What tells two benchmarks apart: the checksum of the scene list and its record."""
        return sha256_of(self.folder / RECORD_NAME)


def read_benchmark(folder: Path, *, check: bool = False) -> Benchmark:
    """The benchmark in a folder; with `check` every file's checksum is compared.

    Raises:
        InputError: no benchmark there, or of another version.
        DamageError: files that are missing or changed, the first of them named.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise InputError(
            f"no benchmark in {str(folder)!r}: {RECORD_NAME} is missing; "
            "make one with `anyscene benchmark build`"
        )
    try:
        record = json.loads(path.read_text())
        stated = record["format"], record["version"]
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{path} is damaged; build the benchmark again") from None
    if stated != (FORMAT, VERSION):
        raise InputError(f"{path} has {stated}, this software reads {(FORMAT, VERSION)}")
    names = record["files"] if check else [SCENES_NAME]
    for name in names:
        file = folder / name
        if not file.is_file() or sha256_of(file) != record["files"][name]:
            raise DamageError(
                f"{file} is missing or not the file that {RECORD_NAME} names: figures would not "
                "be of this benchmark; build it again"
            )
    scenes: list[Any] = read_lines(folder / SCENES_NAME)
    return Benchmark(folder, record, scenes)


def categories_of(scene: BenchmarkScene) -> list[str]:
    """The categories in a scene, each once, sorted."""
    return sorted({element["category"] for element in scene["elements"]})
