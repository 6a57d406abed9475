"""The demo's data set: procedural picture-book scenes in true COCO format.

A scene is one of eight places under one of six lights, a direction (left, right, above) in a
tone (warm, cool), with one to three elements that stand on the ground. Place, tint and shadows
follow the light that the caption names. `demo_plan` decides what is in a scene and which
combinations are held out of train (some category-colour and some place-light pairs),
`demo_render` paints it, and here the files are written:

    OUT/coco/SPLIT/     images/{image_id:012d}.png, instances.json, captions.json
    OUT/truth/SPLIT/    truth.jsonl, shadow/ID.png, shadow_swapped/ID.png (255 = all light taken)
    OUT/shards/SPLIT/   the tar shards that `prepare_coco` makes of both
    OUT/demo.json       the arguments
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from anyscene.errors import InputError
from data_prep.demo_render import DemoScene, render_scene
from data_prep.demo_sprites import CATEGORIES
from data_prep.parallel import ordered_map

VERSION = 1  # of the scenes: another one gives other pictures
SPLITS = ("train", "val")
FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}  # so that no id is in both splits
IDS_PER_IMAGE = 10  # an image's annotations and captions have ids from IDS_PER_IMAGE * image_id on
SMALLEST_SIZE = 32  # pixels
LICENCE = {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
CATEGORY_IDS = {name: number for number, name in enumerate(CATEGORIES, start=1)}


@dataclass(frozen=True)
class Folders:
    """Where the images and the ground truth of a split are written."""

    coco: Path
    truth: Path


@dataclass(frozen=True)
class Records:
    """What the JSON files say of one image."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    captions: list[dict[str, Any]]
    truth: dict[str, Any]


def prepare_demo(
    out: Path, *, scenes: int, val_scenes: int, seed: int, size: int = 64, workers: int = 1
) -> None:
    """Write `scenes` training and `val_scenes` validation scenes of `size` pixels into `out`.

    The files depend on all arguments but `workers`. A second run with the same arguments keeps what
    is complete. Raises `InputError` for an impossible argument, or an `out` with other data.
    """
    from data_prep.coco import CocoFiles, prepare_coco
    from data_prep.coco_sample import Settings

    _claim(out, {"scenes": scenes, "val_scenes": val_scenes, "seed": seed, "size": size})
    for split, count in zip(SPLITS, (scenes, val_scenes), strict=True):
        coco, truth = out / "coco" / split, out / "truth" / split
        if not coco.is_dir():
            _write_split(Folders(coco, truth), split, count, seed=seed, size=size, workers=workers)
        prepare_coco(
            CocoFiles(coco / "images", coco / "instances.json", coco / "captions.json"),
            out / "shards" / split,
            Settings("demo", seed, ((size, size),), soften=0.5, truth=truth),
            split=split,
            workers=workers,
        )


def demo_scene(split: str, index: int, *, seed: int, size: int) -> DemoScene:
    """Scene `index` of a split; every second one of val is held out."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    return render_scene(rng, size, held_out=split == "val" and index % 2 == 0)


def _claim(out: Path, arguments: dict[str, int]) -> None:
    """Record the arguments in `out`, or see that they are the recorded ones."""
    least = {"scenes": 1, "val_scenes": 1, "seed": 0, "size": SMALLEST_SIZE}
    for name, value in arguments.items():
        if value < least[name]:
            raise InputError(f"{name}={value} is too small; use at least {least[name]}")
    path, text = out / "demo.json", json.dumps({**arguments, "version": VERSION}, indent=1) + "\n"
    held = path.read_text() if path.is_file() else ""
    if held != text and (held or (out / "coco").exists()):
        held = " ".join(held.split()) or "demo.json is missing"
        raise InputError(f"{out} holds other data ({held}); choose another folder or remove it")
    out.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(text)
    partial_path.replace(path)


def _write_split(
    final: Folders, split: str, count: int, *, seed: int, size: int, workers: int
) -> None:
    """Write the files of a split. The COCO folder appears last and whole."""
    folders = Folders(*(path.with_name(f".{split}.partial") for path in (final.coco, final.truth)))
    for path in (folders.coco, folders.truth, final.truth):
        shutil.rmtree(path, ignore_errors=True)
    for path in (
        folders.coco / "images",
        folders.truth / "shadow",
        folders.truth / "shadow_swapped",
    ):
        path.mkdir(parents=True)
    write = partial(_write_scene, folders, split, seed, size)
    results = ordered_map(write, range(count), workers=workers)
    records = list(tqdm(results, total=count, desc=f"draw {split}", disable=None))
    _write_json(folders.coco / "instances.json", _instances(records, split))
    _write_json(folders.coco / "captions.json", _captions(records, split))
    lines = (json.dumps(record.truth) + "\n" for record in records)
    (folders.truth / "truth.jsonl").write_text("".join(lines))
    folders.truth.replace(final.truth)
    folders.coco.replace(final.coco)


def _write_scene(folders: Folders, split: str, seed: int, size: int, index: int) -> Records:
    """Render a scene and write its three PNG files."""
    cv2.setNumThreads(1)
    scene = demo_scene(split, index, seed=seed, size=size)
    image_id = FIRST_IMAGE_ID[split] + index
    name = f"{image_id:012d}.png"
    Image.fromarray(scene.image).save(folders.coco / "images" / name)
    Image.fromarray(scene.shadow).save(folders.truth / "shadow" / name)
    Image.fromarray(scene.shadow_swapped).save(folders.truth / "shadow_swapped" / name)
    return Records(
        image={"id": image_id, "file_name": name, "height": size, "width": size, "license": 1},
        annotations=_annotations(scene, image_id),
        captions=[
            {"id": IDS_PER_IMAGE * image_id + number, "image_id": image_id, "caption": caption}
            for number, caption in enumerate(scene.plan.captions())
        ],
        truth=_truth(scene, image_id, name),
    )


def _annotations(scene: DemoScene, image_id: int) -> list[dict[str, Any]]:
    """The elements as COCO annotations, from far to near."""
    annotations = []
    for number, (element, mask) in enumerate(zip(scene.plan.elements, scene.masks, strict=True)):
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        annotations.append(
            {
                "id": IDS_PER_IMAGE * image_id + number,
                "image_id": image_id,
                "category_id": CATEGORY_IDS[element.category],
                "segmentation": {
                    "size": list(mask.shape),
                    "counts": cast(bytes, code["counts"]).decode(),
                },
                "area": int(coco_mask.area(code)),
                "bbox": [float(value) for value in coco_mask.toBbox(code)],
                "iscrowd": 0,
            }
        )
    return annotations


def _truth(scene: DemoScene, image_id: int, name: str) -> dict[str, Any]:
    """What is known of a scene beside its picture: a line of truth.jsonl."""
    plan = scene.plan
    return {
        "image_id": image_id,
        "place": plan.place,
        "direction": plan.direction,
        "tone": plan.tone,
        "horizon": round(plan.horizon, 4),
        "held_out": plan.held_out,
        "shadow": f"shadow/{name}",
        "shadow_swapped": f"shadow_swapped/{name}",
        "elements": [
            {
                "annotation_id": IDS_PER_IMAGE * image_id + number,
                "category": element.category,
                "colour": element.colour,
            }
            for number, element in enumerate(plan.elements)
        ],
    }


def _instances(records: Iterable[Records], split: str) -> dict[str, Any]:
    return {
        **_header(records, split),
        "annotations": [line for record in records for line in record.annotations],
        "categories": [
            {"id": number, "name": name, "supercategory": "demo"}
            for name, number in CATEGORY_IDS.items()
        ],
    }


def _captions(records: Iterable[Records], split: str) -> dict[str, Any]:
    captions = [line for record in records for line in record.captions]
    return {**_header(records, split), "annotations": captions}


def _header(records: Iterable[Records], split: str) -> dict[str, Any]:
    return {
        "info": {"description": f"anyscene demo scenes, {split}", "version": str(VERSION)},
        "licenses": [LICENCE],
        "images": [record.image for record in records],
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values) + "\n")
