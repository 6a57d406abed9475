"""An annotation file of COCO's size: how soon a preparation starts, how much memory it takes."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from child_process import child_process
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES, ANNOTATIONS, CAPTIONS = 118_000, 860_000, 590_000
SIZE = 64  # pixels
LARGEST_GIB = 3.0
LATEST_START_SECONDS = 60


def instance_rows() -> Iterator[str]:
    """Annotations as COCO writes them, each with a polygon of 30 corners."""
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], 1)
    shapes = [
        json.dumps([np.round(outline * radius + 32, 2).ravel().tolist()])
        for radius in np.linspace(5, 25, 200)
    ]
    for number in range(ANNOTATIONS):
        yield (
            f'{{"segmentation": {shapes[number % len(shapes)]}, "area": 702.10575, "iscrowd": 0, '
            f'"image_id": {number % IMAGES}, "bbox": [473.07, 395.93, 38.65, 28.67], '
            f'"category_id": {number % 80}, "id": {number}}}'
        )


def image_rows() -> Iterator[str]:
    for number in range(IMAGES):
        yield (
            f'{{"license": 3, "file_name": "same.jpg", "coco_url": '
            f'"http://images.cocodataset.org/train2017/{number:012d}.jpg", "height": {SIZE}, '
            f'"width": {SIZE}, "date_captured": "2013-11-14 11:18:45", "flickr_url": '
            f'"http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg", "id": {number}}}'
        )


def caption_rows() -> Iterator[str]:
    for number in range(CAPTIONS):
        yield (
            f'{{"image_id": {number % IMAGES}, "id": {number}, '
            f'"caption": "A bicycle replica with a clock as the front wheel, number {number}."}}'
        )


def write_table(path: Path, **rows: Iterator[str]) -> None:
    with path.open("w") as file:
        for number, (name, lines) in enumerate(rows.items()):
            file.write("," if number else "{")
            file.write(f'"{name}": [' + ", ".join(lines) + "]")
        file.write("}")


@pytest.mark.slow
def test_annotations_of_cocos_size_start_in_a_minute_and_stay_under_three_gib(
    tmp_path: Path,
) -> None:
    categories = (f'{{"id": {number}, "name": "thing {number}"}}' for number in range(80))
    write_table(
        tmp_path / "instances.json",
        images=image_rows(),
        annotations=instance_rows(),
        categories=categories,
    )
    write_table(tmp_path / "captions.json", annotations=caption_rows())
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "same.jpg")
    out = tmp_path / "out"
    words = [f"--{name}={tmp_path / name}.json" for name in ("instances", "captions")]
    words += [f"--images={tmp_path}", f"--out={out}", f"--size={SIZE}", "--workers=2"]
    started, largest = None, 0
    with child_process(
        [sys.executable, "-m", "anyscene.cli", "prepare", "coco", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    ) as process:
        while len(list(out.glob("*.tar"))) < 3:
            assert process.poll() is None
            largest = max(largest, memory_of(process.pid))
            if started is None and out.is_dir():
                started = processor_seconds(process.pid)
            time.sleep(0.2)
        process.kill()
    print(f"started after {started} s, {largest / 2**30:.2f} GiB")
    assert started is not None
    assert started < LATEST_START_SECONDS
    assert largest < LARGEST_GIB * 2**30


def processor_seconds(process: int) -> float:
    """What a process has computed, which other load on the machine does not change much."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memory_of(process: int) -> int:
    """Bytes of a process and its children; what they share counts once."""
    total = 0
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    for number in (process, *children):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total
