"""Memory of `anyscene prepare coco` over its run, on annotations of COCO's size.

    python benchmarks/prepare_memory.py [--images 118000] [--stop 20000]  # 118000: to the end

Annotations, captions and a picture of 64 pixels that all images share are made up, with as many
instances and captions an image as COCO has. The command runs on them with two workers, to its end
or until it is killed after so many images. Several times a second its memory is looked at: of all
processes together, what they share counted once, and what each has for itself alone, of which the
most within each tenth of the images is printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES, INSTANCES, CAPTIONS = 118_000, 860_000, 590_000  # of COCO's train2017, about
STOP = 20_000  # images
SIZE = 64  # pixels
INTERVAL = 0.2  # seconds between two looks
PARTS = 10


@dataclass
class Measured:
    """What was seen while the command ran. Memory in bytes."""

    started: float = 0  # processor seconds until the folder of shards was there
    largest: int = 0  # of all processes together
    main: int = 0  # most since it was set to 0
    worker: int = 0


def main() -> None:
    """Print when the command started, what each tenth of the images took, and the most of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--stop", type=int, default=STOP, help="images to run for")
    options = parser.parse_args()
    for name, count in vars(options).items():
        if count < 1:
            parser.exit(2, f"{parser.prog}: --{name} {count} must be at least 1\n")
    with tempfile.TemporaryDirectory() as folder:
        size = write_source(Path(folder), options.images)
        print(f"{options.images} images, annotations of {size / 1e6:.0f} MB", flush=True)
        start = time.monotonic()
        stop = min(options.stop, options.images)
        measured = run(Path(folder), stop, whole=stop == options.images)
        print(f"ran for {time.monotonic() - start:.0f} s")
        print(f"started after {measured.started:.1f} s of processor time")
        print(f"at most {measured.largest / 2**30:.2f} GiB in all processes together")


def write_source(folder: Path, images: int) -> int:
    """Write the source into a folder and return the bytes of its annotations."""
    instances, captions = folder / "instances.json", folder / "captions.json"
    categories = (f'{{"id": {number}, "name": "thing {number}"}}' for number in range(80))
    write_table(
        instances,
        images=image_rows(images),
        annotations=instance_rows(images),
        categories=categories,
    )
    write_table(captions, annotations=caption_rows(images))
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "same.jpg")
    return instances.stat().st_size + captions.stat().st_size


def instance_rows(images: int) -> Iterator[str]:
    """Annotations as COCO writes them, each with a polygon of 30 corners."""
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], 1)
    shapes = [
        json.dumps([np.round(outline * radius + 32, 2).ravel().tolist()])
        for radius in np.linspace(5, 25, 200)
    ]
    for number in range(images * INSTANCES // IMAGES):
        yield (
            f'{{"segmentation": {shapes[number % len(shapes)]}, "area": 702.10575, "iscrowd": 0, '
            f'"image_id": {number % images}, "bbox": [473.07, 395.93, 38.65, 28.67], '
            f'"category_id": {number % 80}, "id": {number}}}'
        )


def image_rows(images: int) -> Iterator[str]:
    for number in range(images):
        yield (
            f'{{"license": 3, "file_name": "same.jpg", "coco_url": '
            f'"http://images.cocodataset.org/train2017/{number:012d}.jpg", "height": {SIZE}, '
            f'"width": {SIZE}, "date_captured": "2013-11-14 11:18:45", "flickr_url": '
            f'"http://farm7.staticflickr.com/6116/6255196340_da26cf2c9e_z.jpg", "id": {number}}}'
        )


def caption_rows(images: int) -> Iterator[str]:
    for number in range(images * CAPTIONS // IMAGES):
        yield (
            f'{{"image_id": {number % images}, "id": {number}, '
            f'"caption": "A bicycle replica with a clock as the front wheel, number {number}."}}'
        )


def write_table(path: Path, **rows: Iterator[str]) -> None:
    """Write a JSON object of lists, row by row."""
    with path.open("w") as file:
        for number, (name, lines) in enumerate(rows.items()):
            file.write("," if number else "{")
            file.write(f'"{name}": [')
            for place, line in enumerate(lines):
                file.write(f", {line}" if place else line)
            file.write("]")
        file.write("}")


def run(folder: Path, images: int, *, whole: bool) -> Measured:
    """Look at the command until it ends, or is killed after `images`; print each tenth of them."""
    out = folder / "out"
    words = [f"--{name}={folder / name}.json" for name in ("instances", "captions")]
    words += [f"--images={folder}", f"--out={out}", f"--size={SIZE}", "--workers=2"]
    command = [sys.executable, "-m", "anyscene.cli", "prepare", "coco", *words]
    measured, journal, part = Measured(), JournalLines(out / "preparing.jsonl"), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and (whole or journal.count() < images):
                if not measured.started and out.is_dir():
                    measured.started = processor_seconds(process.pid)
                look(process.pid, measured)
                if journal.count() >= (part + 1) * images / PARTS:
                    part += 1
                    print_part(part, measured)
                    measured.main = measured.worker = 0
                    look(process.pid, measured)
                time.sleep(INTERVAL)
            if process.poll():
                raise SystemExit(f"it ended with exit code {process.returncode}")
        finally:
            process.kill()  # its workers end with it
    if part < PARTS:
        print_part(PARTS, measured)
    return measured


def print_part(part: int, measured: Measured) -> None:
    main, worker = measured.main / 1e6, measured.worker / 1e6
    print(f"to {part / PARTS:4.0%} main {main:8.1f} MB, a worker {worker:6.1f} MB", flush=True)


class JournalLines:
    """Images that the journal of a preparation has an entry for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = self.read = 0

    def count(self) -> int:
        """Lines so far, without the first, which has the arguments."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self.read)
                data = file.read()
            self.read += len(data)
            self.lines += data.count(b"\n")
        return max(0, self.lines - 1)


def look(main: int, measured: Measured) -> None:
    """Take in the memory of a process and its children."""
    total = 0
    for number in (main, *children(main)):
        try:
            together, alone = memory_of(number)
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        total += together
        if number == main:
            measured.main = max(measured.main, alone)
        else:
            measured.worker = max(measured.worker, alone)
    measured.largest = max(measured.largest, total)


def children(process: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def memory_of(process: int) -> tuple[int, int]:
    """Bytes with its share of what it has in common with others, and what it has alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: 1024 * int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)
    }
    return sizes["Pss"], sizes["Private_Clean"] + sizes["Private_Dirty"]


def processor_seconds(process: int) -> float:
    """What a process has computed, which other load on the machine does not change much."""
    user, system = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
