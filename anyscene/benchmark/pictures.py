"""The pictures of a report and of a gallery: grids of what the methods made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyscene.benchmark.runs import Run
from anyscene.benchmark.scenes import Benchmark, BenchmarkScene
from anyscene.errors import InputError
from anyscene.manifest import GenerationLine, read_generation_manifest
from anyscene.metrics.catalogue import Better
from anyscene.visual import sample_grid

WIDEST = 256  # px a side of a picture in a grid
EACH = 2  # scenes of the best, the median and the worst


def ranked_scenes(values: Sequence[float], better: Better) -> dict[str, list[int]]:
    """Numbers of the best, median and worst scenes, each once; NaN is left out."""
    known = [n for n, value in enumerate(values) if not np.isnan(value)]
    order = sorted(known, key=lambda n: values[n], reverse=better is Better.higher)
    if len(order) <= 3 * EACH:
        return {"all": order}
    middle = len(order) // 2 - EACH // 2
    return {
        "best": order[:EACH],
        "median": order[middle : middle + EACH],
        "worst": order[-EACH:],
    }


def method_grid(
    benchmark: Benchmark, runs: Sequence[Run], rows: Sequence[tuple[int, str]]
) -> Image.Image:
    """As the paper's Figure 5: the prompt, the foreground, one column a method, the real scene.

    `rows` are numbers of scenes, and what stands in front of their prompt.
    """
    scenes = [benchmark.scenes[number] for number, _ in rows]
    captions = [
        f"{words}: {scene['prompt']}" for (_, words), scene in zip(rows, scenes, strict=True)
    ]
    columns: dict[str, list[Image.Image]] = {}
    for run in runs:
        first = [run.lines[number][0] for number, _ in rows]
        columns[run.name] = [_small(run.folder / line["image"]) for line in first]
    size = columns[runs[0].name][0].size

    def shown(name: str, files: Sequence[str | None]) -> dict[str, list[Image.Image]]:
        """A column of pictures; blank where a scene has none, and no column where no scene has."""
        if not any(files):
            return {}
        blank = Image.new("RGB", size, "white")
        return {name: [_small(benchmark.folder / file) if file else blank for file in files]}

    before = shown("subject", [_first_photo(benchmark, scene) for scene in scenes])
    before |= shown("foreground", [scene["canvas"] for scene in scenes])
    return _sheet(before | columns | shown("real", [scene["real"] for scene in scenes]), captions)


def _first_photo(benchmark: Benchmark, scene: BenchmarkScene) -> str | None:
    """The first photo of a scene's first subject."""
    subjects = scene.get("subjects", [])
    return benchmark.subjects[subjects[0]["name"]]["photos"][0] if subjects else None


def gallery(manifest: Path, blended: bool = True) -> Image.Image:
    """As the supplement's Figure 1: one foreground a row, one scene context (prompt) a column.

    Of each pair the image of the lowest seed is shown.

    Raises:
        InputError: no manifest, an image that is missing, or foregrounds that do not all have the
            same prompts.
    """
    rows: dict[str, dict[str, GenerationLine]] = {}
    for line in sorted(read_generation_manifest(manifest), key=lambda line: line["seed"]):
        if line["canvas"] is not None:
            rows.setdefault(line["scene_id"], {}).setdefault(line["prompt"], line)
    if not rows:
        raise InputError(f"{manifest} has no image of a foreground")
    contexts = [list(own) for own in rows.values()]
    if len({len(own) for own in contexts}) != 1:
        raise InputError(
            f"{manifest}: its foregrounds have different numbers of prompts; a gallery needs the "
            "same contexts for all"
        )
    names = _column_names(contexts)
    columns: dict[str, list[Any]] = {"foreground": []}
    for own in rows.values():
        lines = list(own.values())
        columns["foreground"].append(_small(manifest.parent / str(lines[0]["canvas"])))
        for name, line in zip(names, lines, strict=True):
            image = line["image"] if blended else line["image_raw"]
            columns.setdefault(name, []).append(_small(manifest.parent / image))
    return _sheet(columns, list(rows))


def _column_names(contexts: Sequence[Sequence[str]]) -> list[str]:
    """What the prompts of a column have in common at their end, each different."""
    names = []
    for number, prompts in enumerate(zip(*contexts, strict=True), start=1):
        words = [prompt.split() for prompt in prompts]
        common = 0
        while all(len(own) > common and own[-1 - common] == words[0][-1 - common] for own in words):
            common += 1
        text = " ".join(words[0][len(words[0]) - common :]) or f"context {number}"
        names.append(text if text not in names else f"{text} ({number})")
    return names


def _sheet(columns: dict[str, list[Image.Image]], captions: Sequence[str]) -> Image.Image:
    """Pictures of several sizes are brought to the widest one's width."""
    width = max(image.width for own in columns.values() for image in own)

    def enlarged(image: Image.Image) -> Image.Image:
        factor = max(1, width // image.width)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)

    return sample_grid(
        {name: [enlarged(i) for i in own] for name, own in columns.items()}, captions
    )


def _small(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"{path} is missing")
    with Image.open(path) as file:
        image = file.convert("RGBA" if file.has_transparency_data else "RGB")
    image.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    return image
