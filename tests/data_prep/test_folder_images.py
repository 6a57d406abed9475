"""Images as their files have them, prepared: EXIF's orientation, and every kind of pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from small_folder import photo, prepare, save, two_blocks

from anyscene.errors import InputError
from data_prep.folder_sample import Orientation, turned


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("number", range(1, 9))
def test_pixels_are_turned_as_pillow_does(number: int) -> None:
    pixels = photo(size=(5, 9))
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = number
    assert np.array_equal(turned(pixels, number), np.asarray(ImageOps.exif_transpose(image)))
    grey = pixels[..., 0]
    assert np.array_equal(turned(grey, number), turned(pixels, number)[..., 0])


def upright_sample(folder: Path) -> dict[str, Any]:
    """Of an image without EXIF, wider than high."""
    save(folder / "source", "a.png", photo(size=(64, 96)))
    save(folder / "source", "a_mask.png", two_blocks(size=(64, 96)))
    return prepare(folder, bucket=(64, 96))[1]["a"]


@pytest.mark.parametrize("number", [5, 6, 7, 8])
@pytest.mark.parametrize("stored", [False, True])
def test_exif_is_applied_where_the_masks_size_asks_for_it(
    number: int, stored: bool, tmp_path: Path
) -> None:
    scene, mask = photo(size=(64, 96)), two_blocks(size=(64, 96))
    expected = upright_sample(tmp_path / "upright")
    back = {5: 5, 6: 8, 7: 7, 8: 6}[number]  # undoes the turn
    pixels = scene if stored else turned(scene, back)
    save(tmp_path / "source", "a.png", pixels, exif=orientation(number))
    save(tmp_path / "source", "a_mask.png", mask)
    sample = prepare(tmp_path, bucket=(64, 96))[1]["a"]
    for name in ("scene", "mask", "elements"):
        assert np.array_equal(sample[name], expected[name])
    assert sample["meta"]["original_size"] == [64, 96]


@pytest.mark.parametrize(
    ("number", "size"), [(2, (64, 96)), (3, (64, 96)), (4, (64, 96)), (6, (64, 64))]
)
def test_exif_that_the_size_cannot_tell_needs_a_choice(
    number: int, size: tuple[int, int], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    scene, mask = photo(size=size), two_blocks(size=size)
    save(source, "a.png", scene, exif=orientation(number))
    save(source, "a_mask.png", mask)
    with pytest.raises(InputError, match="an EXIF orientation that its mask's size cannot tell"):
        prepare(tmp_path)
    expected = {Orientation.stored: scene, Orientation.upright: turned(scene, number)}
    for choice, pixels in expected.items():
        out = tmp_path / choice.value
        sample = prepare(tmp_path, orientation=choice, bucket=size, out=out)[1]["a"]
        assert np.array_equal(sample["scene"][..., ::-1], pixels)
        assert np.array_equal(sample["mask"], mask)


@pytest.mark.parametrize("number", [3, 6])
def test_alpha_is_turned_with_its_image(number: int, tmp_path: Path) -> None:
    pixels = np.dstack([photo(size=(96, 64)), two_blocks(size=(96, 64))])
    save(tmp_path / "source", "a.png", pixels, exif=orientation(number))
    upright = turned(pixels, number)
    sample = prepare(tmp_path, bucket=upright.shape[:2])[1]["a"]
    assert np.array_equal(sample["scene"][..., ::-1], upright[..., :3])
    assert np.array_equal(sample["mask"], upright[..., 3])


def sixteen_bits(scene: np.ndarray) -> Image.Image:
    return Image.fromarray(scene[..., 0].astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("name", "convert"),
    [
        ("a.png", lambda scene: Image.fromarray(scene).convert("L")),
        ("a.png", lambda scene: Image.fromarray(scene).convert("1")),
        ("a.png", lambda scene: Image.fromarray(scene).quantize(64)),
        ("a.png", lambda scene: Image.fromarray(scene).convert("RGBA")),
        ("a.png", sixteen_bits),
        ("a.jpg", lambda scene: Image.fromarray(scene).convert("CMYK")),
        ("a.jpg", lambda scene: Image.fromarray(scene).convert("L")),
    ],
)
def test_images_of_every_kind_become_colour(
    name: str, convert: Callable[[np.ndarray], Image.Image], tmp_path: Path
) -> None:
    path = save(tmp_path / "source", name, convert(photo()))
    save(tmp_path / "source", "a_mask.png", two_blocks())
    _, samples = prepare(tmp_path)
    image = Image.open(path)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(samples["a"]["scene"][..., ::-1] - expected).max() <= 4  # CMYK is rounded
