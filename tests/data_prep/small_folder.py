"""A small folder of drawn images and masks, prepared as it is by `prepare folder`."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from small_coco import decoded

from anyscene.data.sample import ShardManifest
from data_prep.coco_sample import Settings
from data_prep.folder import prepare_folder
from data_prep.folder_masks import MaskKind
from data_prep.folder_sample import Orientation, Reading
from data_prep.segment_anything import MaskScores
from data_prep.verify import verify

SIZE = (64, 64)
Samples = dict[str, dict[str, Any]]


def photo(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Noise with a grain, as photos have it."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)
    return cv2.GaussianBlur(pixels, (0, 0), 1)


def two_blocks(first: int = 255, second: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask of two blocks, the second one larger."""
    mask = np.zeros(size, np.uint8)
    mask[10:25, 8:24] = first
    mask[32:56, 30:58] = second
    return mask


def save(folder: Path, name: str, image: np.ndarray | Image.Image, **options: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def prepare(folder: Path, **options: Any) -> tuple[ShardManifest, Samples]:
    """The manifest and the decoded samples by name of the folder "source"."""
    reading = Reading(
        source=folder / "source",
        masks=options.pop("masks", MaskKind.auto),
        orientation=options.pop("orientation", Orientation.by_size),
        scores=MaskScores(),
        category="object",
        licence="CC0",
        default_caption=options.pop("default_caption", "a scene"),
    )
    settings = Settings("folder", buckets=(options.pop("bucket", SIZE),), soften=0, min_scale=0)
    out = options.pop("out", folder / "out")
    manifest = prepare_folder(reading, out, settings, **{"split": "train", **options})
    assert verify(manifest.root).damages == []
    samples = decoded(manifest).values()
    return manifest, {s["meta"]["key"].removeprefix("folder-"): s for s in samples}


def assert_two_blocks(sample: dict[str, Any], scene: np.ndarray) -> None:
    assert np.array_equal(sample["mask"], two_blocks())
    assert np.array_equal(sample["scene"][..., ::-1], scene)
    boxes = [tuple(element["box_xywh"]) for element in sample["meta"]["elements"]]
    assert sorted(boxes) == [(8, 10, 16, 15), (30, 32, 28, 24)]
    first, second = (boxes.index(box) + 1 for box in sorted(boxes))  # groups come in any order
    assert np.array_equal(sample["elements"], two_blocks(first, second))
