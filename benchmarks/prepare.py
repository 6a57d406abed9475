"""Preparation of samples against the same work written with Pillow, on one core.

    python benchmarks/prepare.py [--coco FOLDER] [--images 24] [--rounds 9]

Both make the same members of a sample: the scene, 512 pixels a side, as JPEG of quality 95 in full
colour; the soft mask and the elements' numbers as PNG. The peer resizes with Pillow's LANCZOS and
decodes masks with pycocotools. It is told which elements to take and where to crop, and does
without the filters and the mask quality that ours pays for. Rounds of both alternate, and each
gives a ratio, so that a busy machine slows both.

The images are made up, of 1024 pixels a side with the spectrum of photos and three elements each;
or they are those of a COCO folder (images/, instances.json) that give a sample.
"""

import argparse
import cProfile
import functools
import io
import json
import os
import pstats
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageFilter
from pycocotools import mask as coco_mask

from data_prep.coco import make_coco_sample
from data_prep.coco_annotations import ImageRecord, read_records
from data_prep.coco_sample import Settings
from data_prep.framing import Framing
from data_prep.images import LARGEST_REDUCTION, decode_image, encode_scene

SIDE = 1024  # pixels
FALL = 1.3  # of the amplitude with the frequency: gives the bytes of a photo
STAGES = (
    "decode_image",
    "apply",
    "_choose",
    "cover",
    "mask_quality",
    "number_elements",
    "soften",
    "encode_scene",
    "encode_mask",
)


@dataclass(frozen=True)
class Task:
    """One image, and what the peer is told of it."""

    path: Path
    record: ImageRecord
    chosen: set[int]  # annotation ids
    framing: Framing
    corner: tuple[int, int]  # top, left of the crop in the resized image


def main() -> None:
    """Print the ratios, the quality of the scenes and the time of each stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, help="folder with images/ and instances.json")
    parser.add_argument("--images", type=int, default=24, help="how many are made up, if so")
    parser.add_argument("--rounds", type=int, default=9, help="of both, in turn")
    options = parser.parse_args()
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    with tempfile.TemporaryDirectory() as folder:
        coco = options.coco or make_images(Path(folder), options.images)
        make = functools.partial(make_coco_sample, coco / "images", Settings("benchmark"))
        records = read_records(coco / "instances.json", None, None, None, Counter())
        tasks = [task for record in records if (task := describe(make, coco, record))]
        print(f"{len(tasks)} images give a sample")
        rounds = options.rounds
        compare("complete samples", tasks, lambda task: make(task.record), peer_sample, rounds)
        compare("scenes alone", tasks, our_scene, peer_scene, rounds)
        errors = [np.square(scene(our_scene(task)) - scene(peer_scene(task))) for task in tasks]
        decibels = [10 * np.log10(255**2 / error.mean()) for error in errors]
        print(f"PSNR against the peer: mean {np.mean(decibels):.1f} dB, least {min(decibels):.1f}")
        print_stages(lambda: [make(task.record) for task in tasks], len(tasks))


def make_images(folder: Path, count: int) -> Path:
    """JPEGs with the spectrum and the size in bytes of photos, and three polygons each."""
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    images, annotations = [], []
    for number in range(count):
        spectrum = np.fft.rfft2(random.normal(size=(3, SIDE, SIDE)))
        noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / SIDE) ** FALL, s=(SIDE, SIDE))
        noise = np.moveaxis(noise / noise.std(), 0, -1)
        light = 128 + 40 * noise[..., :1] + 4 * noise
        pixels = np.ascontiguousarray(light.clip(0, 255).astype(np.uint8))
        for place in range(3):
            polygon = blob(random, (256 + 512 * (place % 2), 256 + 512 * (place // 2)))
            brighter = np.zeros_like(pixels)
            cv2.fillPoly(brighter, [np.rint(polygon).astype(np.int32)], (40, 20, 60))
            pixels = cv2.add(pixels, brighter)
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": 1}
                | {"segmentation": [polygon.ravel().tolist()]}
            )
        name = f"{number}.jpg"
        Image.fromarray(pixels).save(folder / "images" / name, quality=90)
        images.append({"id": number, "file_name": name, "height": SIDE, "width": SIDE})
    table = {"images": images, "annotations": annotations}
    table["categories"] = [{"id": 1, "name": "blob"}]
    (folder / "instances.json").write_text(json.dumps(table))
    return folder


def blob(random: np.random.Generator, centre: tuple[int, int]) -> np.ndarray:
    """A closed outline of 60 corners, about 300 pixels across."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 150 + 30 * np.cos(3 * angles + random.uniform(0, 6)) + random.normal(0, 4, 60)
    return np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + centre


def describe(make: Callable, coco: Path, record: ImageRecord) -> Task | None:
    """What the peer is told of an image; None if it gives no sample."""
    sample = make(record).sample
    if sample is None:
        return None
    meta = json.loads(sample.members["meta.json"])
    height, width = meta["size"]
    return Task(
        path=coco / "images" / record.file_name,
        record=record,
        chosen={element["annotation_id"] for element in meta["elements"]},
        framing=Framing(record.height, record.width, (height, width)),
        corner=tuple(meta["crop_top_left"]),
    )


def our_scene(task: Task) -> bytes:
    """The JPEG of the scene as preparation makes it."""
    reduction = min(task.framing.reduction, LARGEST_REDUCTION)
    image = task.framing.apply(decode_image(task.path, reduction), task.corner, reduction)
    return encode_scene(image, lossless=False)


def peer_scene(task: Task) -> bytes:
    """The JPEG of the scene as Pillow makes it."""
    with Image.open(task.path) as image:
        return peer_encoded(peer_framed(task, image.convert("RGB"), Image.Resampling.LANCZOS))


def peer_sample(task: Task) -> list[bytes]:
    """Scene, mask and numbers as Pillow and pycocotools make them."""
    height, width = task.record.height, task.record.width
    covered = []
    for annotation in task.record.annotations:
        if annotation.annotation_id in task.chosen:
            runs = coco_mask.merge(coco_mask.frPyObjects(annotation.segmentation, height, width))
            mask = Image.fromarray(coco_mask.decode(runs) * np.uint8(255))
            covered.append(np.asarray(peer_framed(task, mask, Image.Resampling.BOX)))
    covered.sort(key=np.sum, reverse=True)
    numbers = np.zeros(task.framing.bucket, np.uint8)
    for number, mask in enumerate(covered, start=1):
        numbers[mask >= 128] = number
    soft = Image.fromarray(np.maximum.reduce(covered)).filter(ImageFilter.GaussianBlur(1))
    return [peer_scene(task), *(peer_png(image) for image in (soft, Image.fromarray(numbers)))]


def peer_framed(task: Task, image: Image.Image, how: Image.Resampling) -> Image.Image:
    """An image resized and cropped."""
    (height, width), (top, left) = task.framing.bucket, task.corner
    resized = image.resize(task.framing.resized[::-1], how)
    return resized.crop((left, top, left + width, top + height))


def peer_encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling="4:4:4")
    return file.getvalue()


def peer_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def compare(title: str, tasks: Sequence[Task], ours: Callable, peer: Callable, rounds: int) -> None:
    """Alternate rounds of both over all tasks and print the ratio of their times."""
    for make in (ours, peer):
        make(tasks[0])
    measured = [(seconds(ours, tasks), seconds(peer, tasks)) for _ in range(rounds)]
    ratios = [theirs / mine for mine, theirs in measured]
    mine, theirs = (1000 * min(times) / len(tasks) for times in zip(*measured, strict=True))
    print(
        f"{title}: {statistics.median(ratios):.2f} times Pillow's speed "
        f"(rounds {min(ratios):.2f} to {max(ratios):.2f}); "
        f"at best {mine:.2f} ms against {theirs:.2f} ms an image"
    )


def seconds(make: Callable, tasks: Sequence[Task]) -> float:
    """How long all tasks take."""
    start = time.perf_counter()
    for task in tasks:
        make(task)
    return time.perf_counter() - start


def scene(data: bytes) -> np.ndarray:
    """The pixels of a JPEG as floats."""
    return np.asarray(Image.open(io.BytesIO(data)), np.float64)


def print_stages(run: Callable, images: int) -> None:
    """The time of each stage of ours; a profiler slows those of many small steps."""
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile).stats
    totals = {name: total for (_, _, name), (_, _, _, total, _) in stats.items()}
    for stage in STAGES:
        print(f"  {1000 * totals[stage] / images:6.2f} ms an image  {stage}")


if __name__ == "__main__":
    main()
