"""Pictures for people: tensors to PIL images, and grids of samples for logs and reports."""

import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

READABLE_PIXELS = 160
"""Small images are enlarged by an integer factor until the short side has at least this."""

CAPTION_WIDTH = 220
PADDING = 6
FONT_PIXELS = 15
LINE_PIXELS = 20
INK = (32, 32, 32)
HEADER_INK = (110, 110, 110)
PAPER = (255, 255, 255)
BEHIND_TRANSPARENT = (128, 128, 128)
"""The hint's grey, behind the transparent part of an RGBA image."""

Images = Tensor | Sequence[Tensor | Image.Image]
"""B C H W in [0, 1] with 1, 3 or 4 channels, or a sequence of C H W tensors or PIL images."""


def sample_grid(
    columns: Mapping[str, Images], captions: Sequence[str], scale: int | None = None
) -> Image.Image:
    """A white sheet with one scene a row: its caption, then one image of every named column.

    `scale` enlarges the images by that integer factor with nearest neighbour; by default all are
    enlarged alike until the smallest is READABLE_PIXELS.
    Raises ValueError where a column has not as many images as there are captions.
    """
    tiles = {name: [_tile(image) for image in images] for name, images in columns.items()}
    for name, column in tiles.items():
        if len(column) != len(captions):
            raise ValueError(f"column {name!r} has {len(column)} images, not {len(captions)}")
    shown = [tile for column in tiles.values() for tile in column]
    if not shown:
        raise ValueError("a sample grid needs at least one column and one row")
    scale = scale or math.ceil(READABLE_PIXELS / min(min(tile.size) for tile in shown))
    cell_width = scale * max(tile.width for tile in shown)
    cell_height = scale * max(tile.height for tile in shown)
    header_height = LINE_PIXELS + PADDING
    sheet = Image.new(
        "RGB",
        (
            CAPTION_WIDTH + 3 * PADDING + len(tiles) * (cell_width + PADDING),
            header_height + PADDING + len(captions) * (cell_height + PADDING),
        ),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    _write(draw, "prompt", (2 * PADDING, PADDING), (CAPTION_WIDTH, LINE_PIXELS), HEADER_INK)
    for row, caption in enumerate(captions):
        top = header_height + PADDING + row * (cell_height + PADDING)
        draw.line((PADDING, top - PADDING / 2, sheet.width - PADDING, top - PADDING / 2), "#dddddd")
        _write(draw, caption, (2 * PADDING, top), (CAPTION_WIDTH - PADDING, cell_height), INK)
    for index, (name, column) in enumerate(tiles.items()):
        left = CAPTION_WIDTH + 3 * PADDING + index * (cell_width + PADDING)
        _write(draw, name, (left, PADDING), (cell_width, LINE_PIXELS), HEADER_INK)
        for row, tile in enumerate(column):
            enlarged = tile.resize((scale * tile.width, scale * tile.height), 0)
            sheet.paste(enlarged, (left, header_height + PADDING + row * (cell_height + PADDING)))
    return sheet


def to_uint8(image: Tensor) -> Tensor:
    """Values in [0, 1] as uint8 of the same shape: clamped, rounded with halves up."""
    return (image.detach().float() * 255 + 0.5).clamp(0, 255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    """The PIL image (L, RGB or RGBA) of C H W in [0, 1] with 1, 3 or 4 channels."""
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f"an image must be C H W with 1, 3 or 4 channels, got {image.shape}")
    pixels = to_uint8(image).permute(1, 2, 0).cpu().numpy()  # H W C
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def wrap_text(text: str, width: float, font: ImageFont.FreeTypeFont) -> list[str]:
    """The lines of `text`, none wider than `width` pixels; longer words are broken."""
    lines, line = [], ""
    for word in text.split():
        candidate = f"{line} {word}" if line else word
        if font.getlength(candidate) <= width:
            line = candidate
            continue
        lines += [line] if line else []
        line = ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line] if line else lines


def _tile(image: Tensor | Image.Image) -> Image.Image:
    """The image as RGB, an RGBA one on grey."""
    picture = to_pil(image) if isinstance(image, Tensor) else image
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, (*BEHIND_TRANSPARENT, 255))
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    top_left: tuple[float, float],
    size: tuple[float, float],
    ink: tuple[int, int, int],
) -> None:
    """Draws `text` wrapped into (width, height) pixels; what does not fit ends in three dots."""
    font = ImageFont.load_default(FONT_PIXELS)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size, Pillow returns its own outlines
    lines = wrap_text(text, size[0], font)
    fitting = max(1, int(size[1] // LINE_PIXELS))
    if len(lines) > fitting:
        lines = lines[:fitting]
        while font.getlength(lines[-1] + "...") > size[0]:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "..."
    for number, line in enumerate(lines):
        draw.text((top_left[0], top_left[1] + number * LINE_PIXELS), line, ink, font)
