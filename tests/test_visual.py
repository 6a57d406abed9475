"""Pictures: rounding, layout of the grid, wrapping."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from anyscene.visual import sample_grid, to_pil, to_uint8, wrap_text


def test_every_uint8_value_survives_and_halves_round_up():
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 255).long(), levels)
    assert to_uint8(torch.tensor([-0.5, 0.5 / 255, 1.5 / 255, 1.2])).tolist() == [0, 1, 2, 255]
    assert to_uint8(torch.tensor([0.2], dtype=torch.bfloat16)).tolist() == [51]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_to_pil_keeps_the_pixels(channels, mode):
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(1))
    picture = to_pil(image)
    assert (picture.mode, picture.size) == (mode, (7, 5))
    pixels = torch.from_numpy(np.array(picture)).reshape(5, 7, channels).permute(2, 0, 1)
    assert torch.equal(pixels, to_uint8(image))


@pytest.mark.parametrize("shape", [(3, 3, 4, 4), (2, 4, 4), (4, 4)])
def test_to_pil_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="C H W with 1, 3 or 4 channels"):
        to_pil(torch.rand(shape))


def test_small_images_are_enlarged_by_whole_pixels():
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    sheet = np.array(sample_grid({"real": image}, ["a dog"]))
    expected = np.array(to_pil(image[0])).repeat(4, 0).repeat(4, 1)  # 4 * 48 >= 160
    height, width = expected.shape[:2]
    assert (sheet[-height - 6 : -6, -width - 6 : -6] == expected).all()


def test_rows_and_columns_hold_their_images():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None].expand(2, 3, 20, 20)
    columns = {"mask": torch.ones(2, 1, 20, 20), "generated": colours, "real": 1 - colours}
    sheet = np.array(sample_grid(columns, ["first", "second"], scale=1))
    left = sheet.shape[1] - 3 * 26
    top = sheet.shape[0] - 2 * 26
    for row in range(2):
        for column, images in enumerate(columns.values()):
            cell = sheet[top + 26 * row : top + 26 * row + 20, left + 26 * column :][:, :20]
            assert (cell == np.array(to_pil(images[row]).convert("RGB"))).all()
    assert (sheet[top:, -6:][:20] == 255).all()
    assert sheet[:, : left - 10].min() < 100  # captions are written


def test_pil_images_of_other_sizes_and_with_alpha_are_shown():
    images = [Image.new("RGBA", (30, 20)), Image.new("L", (10, 40), 255)]
    sheet = np.array(sample_grid({"canvas": images}, ["", ""], scale=1))
    assert (sheet[-92:-72, -36:-6] == 128).all()  # transparent is grey
    assert (sheet[-72:-52, -36:-6] == 255).all()  # the taller image sets the cell's height


def test_missing_images_are_an_error():
    with pytest.raises(ValueError, match="column 'real' has 1 images, not 2"):
        sample_grid({"real": torch.rand(1, 3, 4, 4)}, ["a", "b"])
    with pytest.raises(ValueError, match="at least one column and one row"):
        sample_grid({}, [])


def test_wrapped_lines_fit_and_lose_nothing():
    font = ImageFont.load_default(15)
    text = "a photo of a dog and an extraordinarilylongwordthatfitsnowhereatallinone line"
    lines = wrap_text(text, 100, font)
    assert all(font.getlength(line) <= 100 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert lines[0] == "a photo of a"
    assert wrap_text("", 100, font) == []


def test_a_long_prompt_stays_in_its_cell():
    image = torch.ones(1, 3, 40, 40)
    short, long = (
        np.array(sample_grid({"x": image}, [text], scale=1)) for text in ("a", "word " * 99)
    )
    assert short.shape == long.shape
    assert (long[-6:] == 255).all()
