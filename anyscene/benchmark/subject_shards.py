"""Pictures with captions as the shards that the trainer reads: whole squares, no foreground.

The mask of a sample is where its picture is: everywhere, or the part that a picture made smaller
covers. So the loss by region (`loss.inside`) counts where there is something to learn.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyscene.benchmark.subject_set import read_photo
from anyscene.data.sample import Element, Meta, ShardManifest
from anyscene.files import sha256_of
from data_prep.boxes import as_uint8
from data_prep.images import LOSSLESS_SIDE, encode_mask, encode_scene
from data_prep.preparation import (
    Arguments,
    Outcome,
    Sample,
    finished_manifest,
    prepare,
    tool_versions,
)

SCALES = (0.4, 1.4)  # of a photo, drawn evenly (Kumari et al. 2023, section 4)
SMALL, LARGE = 0.6, 1.0  # below and above which the caption says so
SMALL_WORDS, LARGE_WORDS = ("a far away ", "very small "), ("zoomed in ", "close up ")
VIEWS = 16  # of each photo, at least: as many draws of a scale
GREY = 127


@dataclass(frozen=True)
class Picture:
    """An image file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Recipe:
    """How pictures become samples."""

    pixels: int  # a side
    seed: int = 0
    resized: bool = False  # Custom Diffusion's views, with words on the size in the caption
    least: int = 1  # samples: pictures are repeated to give as many, a lane of a batch each


@dataclass(frozen=True)
class View:
    """A picture, and the how manyth view of it."""

    picture: Picture
    number: int
    key: str


def make_shards(pictures: Sequence[Picture], out: Path, recipe: Recipe) -> ShardManifest:
    """The shards of pictures in the folder `out`; continued, or left as they are if finished."""
    views = VIEWS if recipe.resized else 1
    views = max(views, -(-recipe.least // len(pictures)))
    items = [
        View(picture, number, f"{out.name}-{len(pictures) * number + place:06d}")
        for number in range(views)
        for place, picture in enumerate(pictures)
    ]
    names = [[picture.caption, sha256_of(picture.path)] for picture in pictures]
    arguments = Arguments(
        split=out.name,
        source="pictures",
        seed=recipe.seed,
        filters=asdict(recipe) | {"pictures": names},
        tools=tool_versions(("numpy", "opencv-python-headless", "pillow")),
    )
    if manifest := finished_manifest(out, arguments):
        return manifest
    make = functools.partial(make_view, recipe)
    return prepare(out, arguments, items, make, workers=1, shard_samples=512)


def make_view(recipe: Recipe, view: View) -> Outcome:
    """The sample of a view."""
    photo, _ = read_photo(view.picture.path)
    caption, (image, mask, corner) = view.picture.caption, square(photo, recipe.pixels)
    if recipe.resized:
        random = np.random.default_rng([recipe.seed, *view.key.encode()])
        scale = random.uniform(*SCALES)
        image, mask = rescaled(image, scale, random)
        caption = sized_caption(caption, scale, random)
    side = recipe.pixels
    element = Element(
        annotation_id=1,
        category="picture",
        box_xywh=[float(value) for value in cv2.boundingRect(mask)],
        area_share=float((mask > 0).mean()),
        mask_quality=1.0,
    )
    meta = Meta(
        key=view.key,
        source="pictures",
        image_id=view.number,
        captions=[caption],
        size=[side, side],
        original_size=[photo.height, photo.width],
        crop_top_left=corner,
        bucket=f"{side}x{side}",
        licence="unknown",
        elements=[element],
        truth=None,
    )
    lossless = side <= LOSSLESS_SIDE
    members = {
        "scene.png" if lossless else "scene.jpg": encode_scene(image, lossless=lossless),
        "mask.png": encode_mask(mask),
        "elements.png": encode_mask((mask > 0).astype(np.uint8)),
        "meta.json": json.dumps(meta, sort_keys=True).encode(),
    }
    return Outcome(Sample(view.key, meta["bucket"], members))


def square(photo: Image.Image, side: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[int]]:
    """The middle of a photo, u8 H W 3, blue first; a full mask; and [y, x] of its corner in the
    photo resized to the side."""
    scale = side / min(photo.size)
    width, height = (max(side, round(length * scale)) for length in photo.size)
    left, top = (width - side) // 2, (height - side) // 2
    resized = photo.resize((width, height), Image.Resampling.LANCZOS)
    middle = resized.crop((left, top, left + side, top + side))
    image = np.ascontiguousarray(np.asarray(middle)[..., ::-1])
    return image, np.full((side, side), 255, np.uint8), [top, left]


def rescaled(
    image: NDArray[np.uint8], scale: float, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A square picture made smaller, somewhere on grey, or larger and cropped somewhere; and a
    mask of where it is."""
    side = len(image)
    inner = max(1, round(side * scale))
    method = cv2.INTER_AREA if inner < side else cv2.INTER_CUBIC
    resized = as_uint8(cv2.resize(image, (inner, inner), interpolation=method))
    top, left = random.integers(0, abs(side - inner), 2, endpoint=True).tolist()
    mask = np.full((side, side), 255, np.uint8)
    if inner >= side:
        return np.ascontiguousarray(resized[top : top + side, left : left + side]), mask
    whole = np.full_like(image, GREY)
    whole[top : top + inner, left : left + inner] = resized
    mask[:] = 0
    mask[top : top + inner, left : left + inner] = 255
    return whole, mask


def sized_caption(caption: str, scale: float, random: np.random.Generator) -> str:
    """The caption with words on the size where it is not the photo's."""
    if SMALL <= scale <= LARGE:
        return caption
    words = SMALL_WORDS if scale < SMALL else LARGE_WORDS
    return words[int(random.integers(len(words)))] + caption
