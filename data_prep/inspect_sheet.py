"""A contact sheet of stored samples: scene, foreground, mask with outlines, captions."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from anyscene.data.sample import Meta, ShardManifest
from anyscene.errors import DamageError
from data_prep.inspect_statistics import read_index

TILE = 240  # pixels: a picture's longer side
GAP = 8  # pixels between pictures; twice as much between samples
COLUMNS = 2  # samples side by side
FONT_PIXELS = 14
LINE_PIXELS = 18
TEXT_LINES = 16  # at most, under a sample
LINE_LETTERS = 88  # capitals still fit
PAPER, INK, FAINT = "#ffffff", "#202020", "#707070"
GREY = 128
OUTLINES = ("#ff4040", "#30b050", "#4080ff", "#ff9900", "#c050e0", "#00b8c8", "#b0a000", "#ff60a0")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A sample's pictures, RGB H W 3 each, and what is written under them."""

    pictures: list[Pixels]
    meta: Meta


def contact_sheet(manifest: ShardManifest, samples: int, seed: int) -> Image.Image:
    """`samples` samples of a shard folder, drawn without replacement, in the shards' order.

    Raises `DamageError` for one that cannot be decoded.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(manifest.samples, min(samples, manifest.samples), replace=False)
    cells = [_cell(shown) for shown in _read(manifest, np.sort(chosen).tolist())]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = COLUMNS * (cells[0].width + 2 * GAP) + 2 * GAP
    sheet = Image.new("RGB", (width, sum(heights) + 2 * GAP * (len(rows) + 1)), PAPER)
    top = 2 * GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (2 * GAP + column * (cell.width + 2 * GAP), top))
        top += height + 2 * GAP
    return sheet


def _read(manifest: ShardManifest, chosen: Sequence[int]) -> Iterator[Shown]:
    """The samples of rising numbers over all shards."""
    first = 0
    for record in manifest.shards:
        path = manifest.root / record.name
        inside = [number - first for number in chosen if 0 <= number - first < record.samples]
        first += record.samples
        if not inside:
            continue
        index = read_index(path, record)
        with path.open("rb") as file:
            for sample in inside:
                members = {}
                for suffix, offset, size in index.members(sample):
                    file.seek(offset)
                    members[suffix] = file.read(size)
                try:
                    yield show(members)
                except (KeyError, ValueError, cv2.error) as error:
                    key = index.keys[sample]
                    raise DamageError(f"{path}: {key} cannot be shown: {error!r}") from None


def show(members: Mapping[str, bytes]) -> Shown:
    """Scene, or what a cached sample has of it, then the foreground on grey, and the mask."""
    images = {name.split(".")[0]: data for name, data in members.items()}
    scene = _decode(images.get("scene") or images["foreground"], cv2.IMREAD_COLOR_RGB)
    mask = _decode(images["mask"], cv2.IMREAD_GRAYSCALE)
    numbers = _decode(images["elements"], cv2.IMREAD_GRAYSCALE)
    alpha = mask[..., None] / 255
    foreground = np.rint(scene * alpha + GREY * (1 - alpha)).astype(np.uint8)
    return Shown([scene, foreground, _outlined(mask, numbers)], json.loads(members["meta.json"]))


def _decode(data: bytes, flags: int) -> Pixels:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("an image that cannot be decoded")
    return image.astype(np.uint8, copy=False)


def _outlined(mask: Pixels, numbers: Pixels) -> Pixels:
    """The mask in dark grey, and a line of its own colour around each element."""
    picture = np.repeat(mask[..., None] // 3, 3, axis=2)
    width = max(1, round(2 * max(mask.shape) / TILE))
    for number in range(1, int(numbers.max()) + 1):
        element = (numbers == number).astype(np.uint8)
        lines, _ = cv2.findContours(element, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, _rgb(_colour(number)), width)
    return picture


def _colour(number: int) -> str:
    return OUTLINES[(number - 1) % len(OUTLINES)]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _cell(shown: Shown) -> Image.Image:
    """The pictures of a sample in a row, and under them its key, elements and captions."""
    tiles = [_tile(picture) for picture in shown.pictures]
    lines = _lines(shown.meta)
    top = max(tile.height for tile in tiles)
    size = 3 * TILE + 2 * GAP, top + GAP // 2 + LINE_PIXELS * len(lines)
    cell = Image.new("RGB", size, PAPER)
    for column, tile in enumerate(tiles):
        cell.paste(tile, (column * (TILE + GAP), 0))
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(FONT_PIXELS)
    for row, (text, ink) in enumerate(lines):
        draw.text((0, top + GAP // 2 + row * LINE_PIXELS), text, ink, font)
    return cell


def _tile(picture: Pixels) -> Image.Image:
    image = Image.fromarray(picture)
    scale = TILE / max(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _lines(meta: Meta) -> list[tuple[str, str]]:
    """Text and colour of the lines under a sample; what does not fit is counted."""
    lines = [(f"{meta['key']}, {meta['bucket']}", FAINT)]
    for caption in meta["captions"]:
        lines += [(line, INK) for line in textwrap.wrap(caption, LINE_LETTERS)]
    for number, element in enumerate(meta["elements"], start=1):
        share, quality = element["area_share"], element["mask_quality"]
        text = f"{element['category']}: {share:.1%} of the area, mask quality {quality:.2f}"
        lines.append((text, _colour(number)))
    if len(lines) > TEXT_LINES:
        more = len(lines) - TEXT_LINES + 1
        lines = [*lines[: TEXT_LINES - 1], (f"and {more} more lines", FAINT)]
    return lines
