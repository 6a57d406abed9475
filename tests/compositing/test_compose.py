"""Canvases: geometry, premultiplied resizing against numpy, and every user's mistake."""

import numpy as np
import pytest
import torch
from PIL import Image

from anyscene.compositing.compose import (
    Placement,
    canvas_size,
    canvas_tensors,
    compose,
    parse_element,
    read_canvas,
)
from anyscene.errors import InputError

RED, GREEN = (255, 0, 0, 255), (0, 255, 0, 255)


def disc(size=64, colour=(200, 40, 20), behind=(0, 0, 255)):
    """A disc whose transparent surroundings hold another colour, as cut-outs often do."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = y**2 + x**2 < (0.4 * size) ** 2
    pixels = np.where(inside[..., None], (*colour, 255), (*behind, 0)).astype(np.uint8)
    return Image.fromarray(pixels)


def test_an_element_is_centred_at_its_fractions_and_scaled_to_its_height():
    element = Image.new("RGBA", (20, 10), RED)
    canvas = np.array(compose([Placement(element, 0.5, 0.25, 0.5)], (40, 80)))
    ys, xs = np.nonzero(canvas[..., 3])
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (0, 19, 20, 59)
    assert (canvas[ys, xs] == RED).all()


def test_an_element_of_its_own_size_keeps_every_pixel():
    element = disc(32)
    canvas = np.array(compose([Placement(element, 0.5, 0.5, 0.5)], (64, 64)))
    original = np.array(element)
    visible = original[..., 3] > 0
    assert (canvas[16:48, 16:48][visible] == original[visible]).all()
    assert canvas[..., 3].sum() == original[..., 3].sum()


def test_later_elements_lie_on_top_and_soft_alpha_mixes():
    red, green = Image.new("RGBA", (8, 8), RED), Image.new("RGBA", (8, 8), (0, 255, 0, 128))
    canvas = compose([Placement(red, 0.5, 0.5, 1), Placement(green, 0.75, 0.5, 1)], (8, 8))
    assert canvas.getpixel((0, 4)) == RED
    assert canvas.getpixel((6, 4)) == (127, 128, 0, 255)


def test_resizing_does_not_leak_hidden_colours():
    """Blue under alpha 0 stays out; a straight resize of the channels would let it in."""
    element = disc(64)
    small = np.array(compose([Placement(element, 0.5, 0.5, 1)], (20, 20)))
    rim = (small[..., 3] > 20) & (small[..., 3] < 235)
    assert rim.sum() > 10
    assert small[rim][:, 2].max() <= 40
    naive = np.dstack(
        [np.array(c.resize((20, 20), Image.Resampling.LANCZOS)) for c in element.split()]
    )
    assert naive[rim][:, 2].max() > 100


@pytest.mark.parametrize("size", [24, 150])
def test_resizing_keeps_a_plain_colour_without_a_rim(size):
    """Pillow's RGBA resize is off by ten levels here: its ringing stays in the colours."""
    element = disc(60)
    canvas = np.array(compose([Placement(element, 0.5, 0.5, 1)], (size, size))).astype(int)
    visible = canvas[..., 3] > 20
    assert np.abs(canvas[visible][:, :3] - (200, 40, 20)).max() <= 1
    alpha = Image.fromarray(np.array(element.getchannel("A"), dtype=np.float32))
    expected = np.array(alpha.resize((size, size), Image.Resampling.LANCZOS)).clip(0, 255)
    assert np.abs(canvas[..., 3] - expected).max() <= 0.51


def test_what_is_beyond_the_canvas_is_clipped():
    element = Image.new("RGBA", (10, 10), RED)
    canvas = np.array(compose([Placement(element, 0, 1, 0.5)], (40, 40)))
    ys, xs = np.nonzero(canvas[..., 3])
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (30, 39, 0, 9)


@pytest.mark.parametrize(
    ("x", "y"), [(1.3, 0.5), (-0.3, 0.5), (0.5, 1.3), (0.5, -0.25), (300, 200)]
)
def test_an_element_wholly_outside_is_named(x, y):
    placement = Placement(Image.new("RGBA", (10, 10), RED), x, y, 0.5, name="dog.png")
    with pytest.raises(InputError, match=r"dog\.png at x=.* is wholly outside the canvas"):
        compose([placement], (40, 40))


@pytest.mark.parametrize("height", [0, -0.1, 200])
def test_an_impossible_height_is_named(height):
    placement = Placement(Image.new("RGBA", (10, 10), RED), 0.5, 0.5, height, name="dog.png")
    with pytest.raises(InputError, match=r"dog\.png: height=.* must be above 0"):
        compose([placement], (40, 40))


def test_no_elements_are_an_error():
    with pytest.raises(InputError, match="at least one element"):
        compose([], (40, 40))


def test_a_thin_element_keeps_a_pixel():
    element = Image.new("RGBA", (1000, 2), RED)
    canvas = np.array(compose([Placement(element, 0.5, 0.5, 0.001)], (32, 32)))
    assert canvas[..., 3].any()


def test_an_element_is_parsed(tmp_path):
    path = tmp_path / "a@b.png"  # the last @ counts
    disc(16).save(path)
    placement = parse_element(f"{path}@0.6,0.7,0.4")
    assert (placement.x, placement.y, placement.height) == (0.6, 0.7, 0.4)
    assert placement.image.mode == "RGBA"
    assert placement.name == str(path)


def test_palette_transparency_is_an_alpha_channel(tmp_path):
    path = tmp_path / "palette.gif"
    disc(16).save(path)
    assert parse_element(f"{path}@0.5,0.5,0.5").image.getchannel("A").getextrema() == (0, 255)


def test_a_photo_is_turned_as_its_exif_says(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: rotate by 90 degrees
    Image.new("RGBA", (8, 4), RED).save(path, exif=exif)
    assert parse_element(f"{path}@0.5,0.5,0.5").image.size == (4, 8)
    assert canvas_size(path) == (8, 4)
    assert read_canvas(path, canvas_size(path))[0].shape == (1, 3, 8, 4)


@pytest.mark.parametrize(
    "numbers", ["0.5,0.5", "0.5,0.5,0.5,0.5", "a,b,c", "nan,0.5,0.5", "", "1,,2"]
)
def test_bad_numbers_show_the_form(tmp_path, numbers):
    path = tmp_path / "dog.png"
    disc(16).save(path)
    with pytest.raises(
        InputError, match=r"must be FILE@X,Y,HEIGHT .* such as dog\.png@0\.6,0\.7,0\.4"
    ):
        parse_element(f"{path}@{numbers}")


def test_an_element_without_numbers_shows_the_form():
    with pytest.raises(InputError, match="must be FILE@X,Y,HEIGHT"):
        parse_element("dog.png")


def test_a_missing_element_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.png does not exist"):
        parse_element(f"{tmp_path}/nothing.png@0.5,0.5,0.5")


def test_an_element_without_alpha_asks_for_a_cut_out(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(
        InputError, match=r"photo\.jpg has no alpha channel \(RGB\); cut the element"
    ):
        parse_element(f"{path}@0.5,0.5,0.5")


def test_an_invisible_element_is_named(tmp_path):
    path = tmp_path / "empty.png"
    Image.new("RGBA", (8, 8)).save(path)
    with pytest.raises(InputError, match=r"empty\.png is transparent everywhere"):
        parse_element(f"{path}@0.5,0.5,0.5")


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    path = tmp_path / "damaged.png"
    Image.effect_noise((64, 64), 50).convert("RGBA").save(path)
    content = {"text": b"hello", "cut": path.read_bytes()[:200], "empty": b""}[damage]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.png cannot be read as an image") as caught:
        parse_element(f"{path}@0.5,0.5,0.5")
    assert "\n" not in str(caught.value)


def test_canvas_tensors_are_the_pixels():
    image = disc(16)
    rgb, alpha = canvas_tensors(image)
    assert rgb.shape == (3, 16, 16)
    assert alpha.shape == (1, 16, 16)
    back = (torch.cat([rgb, alpha]) * 255).round().byte().permute(1, 2, 0).numpy()
    assert (back == np.array(image)).all()
    with pytest.raises(InputError, match="must be RGBA, this one is RGB"):
        canvas_tensors(image.convert("RGB"))


def test_a_canvas_of_the_right_size_is_read_as_it_is(tmp_path):
    path = tmp_path / "canvas.png"
    disc(32).save(path)
    rgb, alpha = read_canvas(path, (32, 32))
    assert (rgb.shape, alpha.shape) == ((1, 3, 32, 32), (1, 1, 32, 32))
    assert torch.equal(rgb[0], canvas_tensors(disc(32))[0])


def test_a_canvas_of_the_same_aspect_is_resized(tmp_path):
    path = tmp_path / "canvas.png"
    disc(64).resize((129, 64), Image.Resampling.NEAREST).save(path)  # 0.8 % too wide
    rgb, alpha = read_canvas(path, (32, 64))
    assert (rgb.shape, alpha.shape) == ((1, 3, 32, 64), (1, 1, 32, 64))
    assert rgb[:, 2][alpha[:, 0] > 0.1].max() < 0.2  # no hidden blue


@pytest.mark.parametrize(("shape", "size"), [((640, 480), (512, 512)), ((333, 500), (64, 64))])
def test_a_canvas_of_another_aspect_names_a_size_that_fits(tmp_path, shape, size):
    path = tmp_path / "canvas.png"
    Image.new("RGBA", shape, GREEN).save(path)
    with pytest.raises(InputError, match=r"does not fit .* ask for width=\d+ height=\d+") as caught:
        read_canvas(path, size)
    words = str(caught.value).replace(",", "").split()
    width, height = (int(word.split("=")[1]) for word in words if "=" in word)
    assert width % 8 == height % 8 == 0
    assert read_canvas(path, (height, width))[0].shape == (1, 3, height, width)


def test_a_canvas_without_foreground_is_named(tmp_path):
    path = tmp_path / "canvas.png"
    Image.new("RGBA", (8, 8), (255, 0, 0, 100)).save(path)
    with pytest.raises(InputError, match=r"canvas\.png has no foreground"):
        read_canvas(path, (8, 8))


def test_a_canvas_without_alpha_is_named(tmp_path):
    path = tmp_path / "canvas.png"
    Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(InputError, match="has no alpha channel"):
        read_canvas(path, (8, 8))
