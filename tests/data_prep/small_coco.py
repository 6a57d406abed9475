"""A small COCO data set drawn by a test, and its samples read back."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from anyscene.data.sample import ShardManifest
from data_prep.coco import CocoFiles, prepare_coco
from data_prep.coco_sample import Settings
from data_prep.shards import read_samples

SIZE = 64


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    """A polygon that pycocotools fills as the pixels left..right-1, top..bottom-1."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(mask.shape), "counts": counts}


class SmallCoco:
    """A COCO data set of drawn images, square unless said otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.captions: list[dict[str, Any]] = []

    def add(
        self,
        *instances: Any,
        crowd: Any = None,
        caption: str | None = "a scene",
        name: str = "{}.png",
        size: tuple[int, int] = (SIZE, SIZE),
        **save: Any,
    ) -> int:
        """One image with instances of category 1, 2, ...; a crowd is of the last category, 9."""
        number = len(self.images) + 1
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)
        mode = save.pop("mode", "RGB")
        smooth = cv2.GaussianBlur(pixels, (0, 0), 3)
        Image.fromarray(smooth).convert(mode).save(
            self.folder / "images" / name.format(number), **save
        )
        self.images.append(
            {"id": number, "file_name": name.format(number), "height": size[0], "width": size[1]}
            | {"license": 7}
        )
        for category, segmentation in enumerate(instances, start=1):
            self._annotate(number, category, segmentation, 0)
        if crowd is not None:
            self._annotate(number, 9, crowd, 1)
        if caption is not None:
            entry = {"id": number, "image_id": number, "caption": f" {caption}\n"}
            self.captions.append(entry)
        return number

    def _annotate(self, image: int, category: int, segmentation: Any, crowd: int) -> None:
        self.annotations.append(
            {
                "id": 100 + len(self.annotations),
                "image_id": image,
                "category_id": category,
                "segmentation": segmentation,
                "iscrowd": crowd,
            }
        )

    def write(self) -> dict[str, Path]:
        """The files of `prepare_coco`."""
        names = ("apple", "boat", "car", "dog", "egg", "fork", "goat", "hat", "ink")
        categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
        licences = [{"id": 7, "name": "CC BY", "url": "http://example.org"}]
        tables = {
            "instances": {
                "images": self.images,
                "annotations": self.annotations,
                "categories": categories,
                "licenses": licences,
            },
            "captions": {"annotations": self.captions},
        }
        for name, table in tables.items():
            (self.folder / f"{name}.json").write_text(json.dumps(table))
        paths = {name: self.folder / f"{name}.json" for name in tables}
        return paths | {"images": self.folder / "images", "out": self.folder / "out"}

    def prepare(self, **options: Any) -> tuple[ShardManifest, dict[int, dict[str, Any]]]:
        """The manifest and the decoded samples by image id."""
        manifest = prepare_files(**(self.write() | {"buckets": ((SIZE, SIZE),)} | options))
        return manifest, decoded(manifest)


def prepare_files(**options: Any) -> ShardManifest:
    """`prepare_coco` with the fields of its dataclasses as keywords."""
    files, settings = (
        {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        for kind in (CocoFiles, Settings)
    )
    return prepare_coco(
        CocoFiles(**files),
        options.pop("out"),
        Settings(**({"source": "coco"} | settings)),
        **({"split": "train"} | options),
    )


def decoded(manifest: ShardManifest) -> dict[int, dict[str, Any]]:
    """Samples by image id: meta, mask, elements, scene, and the names of the members."""
    samples = {}
    for record in manifest.shards:
        for _key, members in read_samples(manifest.root / record.name):
            sample: dict[str, Any] = {"meta": json.loads(members["meta.json"]), "names": [*members]}
            for name, data in members.items():
                if name != "meta.json":
                    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
                    sample[name.split(".")[0]] = image
            samples[sample["meta"]["image_id"]] = sample
    return samples


def file_bytes(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
