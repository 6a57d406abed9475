"""A benchmark's folder: frozen scenes with their checksums. No torch here.

benchmark.json    what made it, how many scenes of what, and every file's sha256
scenes.jsonl      one scene a line, see `BenchmarkScene`
canvas/ID.png     the composited foreground, RGBA; masks/ID.png its alpha; elements/ID.png which
                  element a pixel belongs to, 1..n, 0 none
real/KEY.png      the real scene of every image that gave an element: the reference of FID
subjects/NAME/    the photos of a subject set's subjects; `benchmark.json` says which are whose
README.md         the data card
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of
from anyscene.manifest import read_lines

FORMAT = "anyscene-benchmark"
VERSION = 1
RECORD_NAME, SCENES_NAME, CARD_NAME = "benchmark.json", "scenes.jsonl", "README.md"
REAL = "real"  # folder
ORIGINAL, RECOMBINED = "original", "recombined"
SUBJECT, PAIR = "subject", "pair"  # layouts of a subject set
SUBJECTS = "subjects"  # its folder of photos, its key in `benchmark.json`, and its source


class SceneElement(TypedDict):
    """One element of a canvas."""

    category: str
    box_xywh: list[int]  # pixels of the canvas
    area_share: float  # of the canvas, [0, 1]
    image_id: int  # where it comes from
    annotation_id: int


class SceneSubject(TypedDict):
    """A subject that a scene is to show."""

    name: str  # in `benchmark.json`, which lists its photos
    noun: str  # its class


class BenchmarkScene(TypedDict):
    """One line of `scenes.jsonl`. Paths are relative to the benchmark's folder."""

    scene_id: str
    layout: str  # original, recombined (elements of several images), subject or pair
    prompt: str
    height: int
    width: int
    canvas: str | None  # None, as the next two: a subject that nothing cuts out of its photos
    mask: str | None
    elements_map: str | None
    elements: list[SceneElement]
    real: str | None  # the real scene; None: only one in its own layout has one
    source_images: list[int]  # the first one's caption is in the prompt
    licences: list[str]  # of the source images
    truth: dict[str, Any] | None  # of procedural scenes in their own layout
    subjects: NotRequired[list[SceneSubject]]  # of subject sets alone, as the next
    subject_prompt: NotRequired[str]  # the prompt with {0}, {1} where the subjects' nouns are


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that was read from its folder."""

    folder: Path
    record: dict[str, Any]
    scenes: list[BenchmarkScene]

    @property
    def subjects(self) -> dict[str, Any]:
        """Noun and photos (relative to the folder) by a subject's name; {}: no subject set."""
        return self.record.get(SUBJECTS, {})

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
    nouns = {subject["noun"] for subject in scene.get("subjects", [])}
    return sorted(nouns | {element["category"] for element in scene["elements"]})
