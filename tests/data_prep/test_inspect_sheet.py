"""The contact sheet: what is drawn of a sample, and where."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from shard_folders import SIZE, drawn_sample, rewrite, write_shards

from anyscene.data.sample import ShardManifest
from data_prep.inspect_sheet import (
    FONT_PIXELS,
    GAP,
    INK,
    LINE_PIXELS,
    PAPER,
    TILE,
    contact_sheet,
    show,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples: a tile in each, a dog in every other one. Read only."""
    return write_shards(tmp_path_factory.mktemp("drawn") / "train")


def test_pictures_of_a_sample_are_its_scene_foreground_and_mask() -> None:
    sample = drawn_sample(3).sample
    assert sample
    scene, foreground, mask = show(sample.members).pictures
    inside = np.asarray(Image.open(io.BytesIO(sample.members["elements.png"]))) > 0
    assert np.array_equal(foreground[inside], scene[inside])
    assert (foreground[~inside] == 128).all()
    colours = {tuple(colour) for colour in mask.reshape(-1, 3).tolist()}
    assert {(0xFF, 0x40, 0x40), (0x30, 0xB0, 0x50), (0, 0, 0), (85, 85, 85)} == colours
    cached = drawn_sample(3, cached=True).sample
    assert cached
    assert np.array_equal(show(cached.members).pictures[1], foreground)


def test_the_sheet_draws_each_sample_once_by_seed(shards: Path) -> None:
    manifest = ShardManifest.read(shards)
    sheets = [contact_sheet(manifest, 4, seed) for seed in (0, 0, 1)]
    assert sheets[0].tobytes() == sheets[1].tobytes()
    assert sheets[0].tobytes() != sheets[2].tobytes()
    assert sheets[0].width == 2 * (3 * TILE + 4 * GAP) + 2 * GAP
    everything = contact_sheet(manifest, 100, 0)
    assert everything.tobytes() == contact_sheet(manifest, 6, 1).tobytes()
    assert everything.height > sheets[0].height
    assert everything.height < 2 * sheets[0].height


def pixels_of(sheet: Image.Image, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A part of a sheet, from the corner of its first cell."""
    left, top = left + 2 * GAP, top + 2 * GAP
    return np.asarray(sheet.crop((left, top, left + width, top + height)))


def line_of(sheet: Image.Image, column: int, line: int) -> np.ndarray:
    """The pixels of a line of text under the sample in a column of the first row."""
    width = 3 * TILE + 2 * GAP
    top = TILE + GAP // 2 + line * LINE_PIXELS
    return pixels_of(sheet, column * (width + 2 * GAP), top, width, LINE_PIXELS)


def test_the_sheet_shows_scene_foreground_and_mask_side_by_side(shards: Path) -> None:
    sheet = contact_sheet(ShardManifest.read(shards), 6, 0)
    sample = drawn_sample(1).sample
    assert sample
    images = {
        name: np.asarray(Image.open(io.BytesIO(sample.members[f"{name}.png"])))
        for name in ("scene", "mask", "elements")
    }
    pictures = [pixels_of(sheet, n * (TILE + GAP), 0, TILE, TILE) for n in range(3)]
    scale = TILE // SIZE
    for picture in pictures:
        assert np.array_equal(picture, picture[::scale, ::scale].repeat(scale, 0).repeat(scale, 1))
    scene, foreground, mask = (picture[::scale, ::scale] for picture in pictures)
    inside = images["mask"] > 0
    assert np.array_equal(scene, images["scene"])
    assert np.array_equal(foreground, np.where(inside[..., None], images["scene"], 128))
    assert (mask[~inside] == 0).all()
    assert (mask[inside].max(-1) > 0).all()
    assert (mask[images["elements"] == 2].max(0) == (85, 0xB0, 85)).all()  # grey, green outline


def test_the_sheet_tells_each_samples_captions_and_elements(tmp_path: Path) -> None:
    """Under the first are its key, two captions and two elements, under the second one of each."""
    folder = write_shards(tmp_path / "train", samples=2)
    sheet = contact_sheet(ShardManifest.read(folder), 2, 0)
    written = [[(line_of(sheet, c, n) != 255).any() for n in range(5)] for c in range(2)]
    assert written == [[True] * 5, [True] * 3 + [False] * 2]

    def change(samples: list) -> None:
        members = samples[0][1]
        members["meta.json"] = members["meta.json"].replace(b"a scene", b"a dream")

    rewrite(folder, change)
    other = contact_sheet(ShardManifest.read(folder), 2, 0)
    assert other.size == sheet.size
    same = [
        [np.array_equal(line_of(sheet, c, n), line_of(other, c, n)) for n in range(5)]
        for c in range(2)
    ]
    assert same == [[True, True, False, True, True], [True] * 5]


def test_a_line_is_the_caption_in_letters(shards: Path) -> None:
    """As Pillow draws it on white; the letters of another caption differ."""
    sheet = contact_sheet(ShardManifest.read(shards), 6, 0)
    for line, text in ((1, "tiles of number 1"), (2, "a scene")):
        expected = Image.new("RGB", (3 * TILE + 2 * GAP, LINE_PIXELS), PAPER)
        font = ImageFont.load_default(FONT_PIXELS)
        ImageDraw.Draw(expected).text((0, 0), text, INK, font)
        assert np.array_equal(line_of(sheet, 0, line), np.asarray(expected))
