"""What `run` left in its folders, checked to be comparable: the same scenes, seeds and sampling."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyscene.benchmark.scenes import Benchmark
from anyscene.errors import DamageError, InputError
from anyscene.manifest import GenerationLine, read_generation_manifest

RUN_NAME = "run.json"
SAME = ("images", "negative_prompt", "steps", "scheduler", "guidance_scale", "dtype")
"""Fields of `run.json` that all compared methods must share."""

CHECKSUMS = {"image": "sha256", "image_raw": "sha256_raw", "canvas": "canvas_sha256"}
"""A line's checksum of each of its files."""


@dataclass(frozen=True)
class Run:
    """The images of one method."""

    folder: Path
    name: str  # as tables call it
    method: str
    record: dict[str, Any]  # run.json
    lines: list[list[GenerationLine]]  # a list a scene, in the benchmark's order; its seeds rising

    @property
    def repeats(self) -> int:
        """Generation seeds a scene."""
        return len(self.lines[0])


def read_runs(benchmark: Benchmark, named: Sequence[tuple[str | None, Path]]) -> list[Run]:
    """The runs in folders of (name or None, folder).

    Raises:
        InputError: a run that is of another benchmark, unfinished or not comparable with the first;
            two of one name.
        DamageError: a manifest that is damaged.
    """
    runs = [_read_run(benchmark, name, folder) for name, folder in named]
    if not runs:
        raise InputError("nothing to score: name at least one folder of `anyscene benchmark run`")
    first, names = runs[0], set()
    for run in runs:
        if run.name in names:
            raise InputError(f"two runs are called {run.name}; name them: --run NAME=FOLDER")
        names.add(run.name)
        for key in SAME:
            if run.record[key] != first.record[key]:
                raise InputError(
                    f"{run.folder} was made with {key}={run.record[key]} and {first.folder} with "
                    f"{first.record[key]}: they are not comparable"
                )
        for own, other in zip(run.lines, first.lines, strict=True):
            sizes = [(line["height"], line["width"]) for line in (own[0], other[0])]
            if sizes[0] != sizes[1]:
                raise InputError(
                    f"scene {own[0]['scene_id']} is {sizes[0]} pixels in {run.folder} and "
                    f"{sizes[1]} in {first.folder}: they are not comparable"
                )
    return runs


def _read_run(benchmark: Benchmark, name: str | None, folder: Path) -> Run:
    if not (folder / RUN_NAME).is_file():
        raise InputError(f"no {RUN_NAME} in {folder}: make it with `anyscene benchmark run`")
    try:
        record = json.loads((folder / RUN_NAME).read_text())
    except ValueError:
        raise DamageError(f"{folder / RUN_NAME} is damaged") from None
    if record["benchmark_sha256"] != benchmark.sha256:
        raise InputError(f"{folder} is of another benchmark than {benchmark.folder}")
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise InputError(f"{folder} is not finished: {manifest} is missing; run all its parts")
    by_scene: dict[str, dict[int, GenerationLine]] = {}
    for line in read_generation_manifest(manifest):
        by_scene.setdefault(line["scene_id"], {})[line["seed"]] = line
    lines = []
    for scene in benchmark.scenes:
        own = by_scene.get(scene["scene_id"], {})
        if len(own) != record["images"]:
            raise InputError(
                f"{folder} is not finished: scene {scene['scene_id']} has {len(own)} of "
                f"{record['images']} images; run it again"
            )
        lines.append([own[seed] for seed in sorted(own)])
    return Run(folder, name or record["method"], record["method"], record, lines)


def made_file(folder: Path, line: GenerationLine, kind: str) -> bytes:
    """A file of a line, by `CHECKSUMS`. Raises `DamageError` where it is not the one it names."""
    path = folder / line[kind]
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != line[CHECKSUMS[kind]]:
        raise DamageError(
            f"{path} is missing or not the file that the manifest names: figures would not be of "
            "this run; remove it and run the method again"
        )
    return content
