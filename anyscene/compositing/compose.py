"""Composited foregrounds: cut-out elements placed on a transparent canvas, and canvases from files.

Sizes are (height, width) in pixels; a `Placement` counts in fractions of the canvas.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from anyscene.compositing.matting import Matting, cut_out
from anyscene.errors import InputError

ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratios up to which a canvas is resized rather than refused."""

SIZE_MULTIPLE = 8
"""Suggested sizes are multiples of this, as diffusers' pipelines require."""

MAX_ELEMENT_HEIGHT = 4.0
"""Largest height of an element in canvas heights: pixels given as fractions fill no memory."""


@dataclass(frozen=True)
class Placement:
    """A cut-out element and where it goes; what is beyond the canvas is clipped."""

    image: Image.Image  # with an alpha channel, 255 = foreground
    x: float  # centre, fraction of the canvas' width
    y: float  # centre, fraction of the canvas' height
    height: float  # fraction of the canvas' height; the aspect ratio is kept
    name: str = "element"  # what errors call it


def compose(placements: Sequence[Placement], size: tuple[int, int]) -> Image.Image:
    """The RGBA canvas of `size` with every element resized and pasted, later ones on top.

    Elements are resized with LANCZOS in premultiplied alpha, so that colours under transparent
    pixels do not leak, and composited with "over" (Porter & Duff 1984), both in sRGB values.
    Raises InputError for no elements, one wholly outside the canvas or of an impossible height.
    """
    if not placements:
        raise InputError("a composited foreground needs at least one element")
    height, width = size
    canvas = Image.new("RGBA", (width, height))
    for placement in placements:
        left, top, wide, high = _place(placement, placement.image.size, size)
        layer = Image.new("RGBA", canvas.size)
        layer.paste(_resize(placement.image, (wide, high)), (left, top))
        canvas = Image.alpha_composite(canvas, layer)
    return canvas


def parse_element(text: str, matting: Matting | None = None) -> Placement:
    """The placement that `FILE@X,Y,HEIGHT` names, such as `dog.png@0.6,0.7,0.4`.

    Files with alpha are used as they are. With `matting`, photos without it are cut out and
    cropped to the element, so that HEIGHT is the element's.

    Raises InputError for another form, numbers that are none, a file that cannot be read, has no
    alpha channel or no visible pixel.
    """
    path, x, y, height = _parse(text)
    placement = Placement(_read_rgba(Path(path), matting), x, y, height, name=path)
    _check_height(placement)
    if placement.image.getchannel("A").getextrema()[1] == 0:
        raise InputError(f"{path} is transparent everywhere; its alpha must be 255 on the element")
    return placement


def check_element(text: str, size: tuple[int, int], *, matted: bool) -> None:
    """Raises InputError where `parse_element` or `compose` on a canvas of `size` would, as far as a
    file's header tells; `matted` says that photos are cut out."""
    path, x, y, height = _parse(text)
    with _opened(Path(path)) as file:
        placement = Placement(file, x, y, height, name=path)
        _check_height(placement)
        if file.has_transparency_data:
            _place(placement, _upright_size(file), size)
        elif not matted:
            raise _opaque(file, Path(path))


def _parse(text: str) -> tuple[str, float, float, float]:
    """File, centre and height of `FILE@X,Y,HEIGHT`. Raises InputError for another form."""
    path, separator, numbers = text.rpartition("@")
    parts = numbers.split(",")
    try:
        x, y, height = (float(part) for part in parts)
    except ValueError:
        x = y = height = math.nan
    if not (separator and path and all(math.isfinite(value) for value in (x, y, height))):
        raise InputError(
            f"element {text!r} must be FILE@X,Y,HEIGHT with the centre and the height as fractions "
            "of the canvas, such as dog.png@0.6,0.7,0.4"
        )
    return path, x, y, height


def canvas_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of a file's upright image. Raises InputError where it cannot be read."""
    with _opened(Path(path)) as file:
        width, height = _upright_size(file)
    return height, width


def check_canvas(path: Path | str, size: tuple[int, int]) -> None:
    """Raises InputError where `read_canvas` would, as far as the file's header tells."""
    with _opened(Path(path)) as file:
        if not file.has_transparency_data:
            raise _opaque(file, Path(path))
        _check_aspect(Path(path), _upright_size(file), size)


def read_canvas(path: Path | str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Colours 1 3 H W and alpha 1 1 H W, both in [0, 1], of an RGBA file, resized to `size`.

    Raises InputError where the file cannot be read, has no alpha channel, no foreground
    (alpha > 0.5), or an aspect ratio that differs by more than ASPECT_TOLERANCE.
    """
    path, (height, width) = Path(path), size
    canvas = _read_rgba(path)
    _check_aspect(path, canvas.size, size)
    rgb, alpha = canvas_tensors(_resize(canvas, (width, height)))
    if not (alpha > 0.5).any():
        raise InputError(f"{path} has no foreground: its alpha is 0.5 or less everywhere")
    return rgb[None], alpha[None]


def canvas_tensors(image: Image.Image) -> tuple[Tensor, Tensor]:
    """Colours 3 H W (not premultiplied) and alpha 1 H W of an RGBA image, float32 in [0, 1].

    Raises InputError for an image without alpha channel.
    """
    if image.mode != "RGBA":
        raise InputError(f"a canvas must be RGBA, this one is {image.mode}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255  # 4 H W
    return pixels[:3].contiguous(), pixels[3:].contiguous()


def _read_rgba(path: Path, matting: Matting | None = None) -> Image.Image:
    """The file's upright RGBA image, cut out if need be; InputError where there is none."""
    with _opened(path) as file:
        if file.has_transparency_data:
            return ImageOps.exif_transpose(file).convert("RGBA")
        if matting is None:
            raise _opaque(file, path)
        photo = ImageOps.exif_transpose(file).convert("RGB")
    return cut_out(photo, matting, str(path))


def _opaque(file: Image.Image, path: Path) -> InputError:
    return InputError(
        f"{path} has no alpha channel ({file.mode}); cut the element out first and "
        "give an RGBA file, alpha 255 on the foreground and 0 around it; for an "
        "--element, --matting isnet-general-use does that"
    )


def _upright_size(file: ImageFile.ImageFile) -> tuple[int, int]:
    """(width, height) as viewers show the image."""
    if file.format == "TIFF":  # some of which Pillow turns as it opens them
        return ImageOps.exif_transpose(file).size
    width, height = file.size
    path = str(file.filename)
    turned = width != height and _lies_on_its_side(path, os.stat(path).st_mtime_ns)
    return (height, width) if turned else (width, height)


@cache
def _lies_on_its_side(path: str, _changed: int) -> bool:
    """Whether viewers turn an image by a quarter. All of a PNG may be read, as its orientation may
    come last; once for all the scenes that name it."""
    with Image.open(path) as file:
        return file.getexif().get(ExifTags.Base.Orientation) in range(5, 9)


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """The file as an image; InputError where it is none, also while it is read."""
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; give an RGBA image")
    try:
        with Image.open(path) as file:
            yield file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as an image: {reason}") from error


def _place(
    placement: Placement, shape_wh: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of an element on a canvas of `size`.

    Sides are at least one pixel. Raises InputError where it is wholly outside, or of an impossible
    height.
    """
    _check_height(placement)
    height, width = size
    ideal = placement.height * height
    wide, high = max(1, round(ideal * shape_wh[0] / shape_wh[1])), max(1, round(ideal))
    left, top = round(placement.x * width - wide / 2), round(placement.y * height - high / 2)
    if not (-wide < left < width and -high < top < height):
        raise InputError(
            f"{placement.name} at x={placement.x:g}, y={placement.y:g}, "
            f"height={placement.height:g} is wholly outside the canvas; "
            "x and y are the centre as fractions, such as 0.5,0.5"
        )
    return left, top, wide, high


def _check_aspect(path: Path, shape_wh: tuple[int, int], size: tuple[int, int]) -> None:
    height, width = size
    if not _same_aspect(shape_wh, (width, height)):
        fitting_width, fitting_height = _fitting_size(shape_wh, width * height)
        raise InputError(
            f"{path} is {shape_wh[0]} x {shape_wh[1]} pixels (width x height), which does not "
            f"fit {width} x {height}; ask for width={fitting_width} height={fitting_height}, "
            f"or give a canvas of {width} x {height}"
        )


def _check_height(placement: Placement) -> None:
    if not 0 < placement.height <= MAX_ELEMENT_HEIGHT:
        raise InputError(
            f"{placement.name}: height={placement.height:g} must be above 0 and at most "
            f"{MAX_ELEMENT_HEIGHT:g} canvas heights; 0.4 is 40 % of the canvas"
        )


def _resize(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    """The RGBA image at (width, height), unchanged if it has that size.

    LANCZOS on premultiplied colours, divided by the resized alpha before that is clipped: so the
    filter's ringing at the cut-out's border cancels, where Pillow's own RGBA resize leaves a rim.
    """
    rgba = image.convert("RGBA")
    if rgba.size == size_wh:
        return rgba
    pixels = np.array(rgba, dtype=np.float32)  # H W 4
    pixels[..., :3] *= pixels[..., 3:] / 255
    planes = [Image.fromarray(pixels[..., channel]) for channel in range(4)]
    resized = np.stack(
        [np.array(plane.resize(size_wh, Image.Resampling.LANCZOS)) for plane in planes], axis=-1
    )
    alpha = resized[..., 3:]
    resized[..., :3] *= np.where(alpha >= 0.5, 255 / np.maximum(alpha, 0.5), 0)
    return Image.fromarray((resized + 0.5).clip(0, 255).astype(np.uint8))


def _same_aspect(first_wh: tuple[int, int], second_wh: tuple[int, int]) -> bool:
    ratio = (first_wh[0] * second_wh[1]) / (first_wh[1] * second_wh[0])
    return abs(ratio - 1) <= ASPECT_TOLERANCE


def _fitting_size(shape_wh: tuple[int, int], area: int) -> tuple[int, int]:
    """(width, height) in multiples of SIZE_MULTIPLE, of the shape's aspect and about the area."""
    aspect = shape_wh[0] / shape_wh[1]
    ideal = math.sqrt(area / aspect)
    steps = range(SIZE_MULTIPLE, 4 * math.ceil(ideal) + 64 * SIZE_MULTIPLE, SIZE_MULTIPLE)
    for height in sorted(steps, key=lambda step: abs(step - ideal)):
        width = max(1, round(height * aspect / SIZE_MULTIPLE)) * SIZE_MULTIPLE
        if _same_aspect((width, height), shape_wh):
            return width, height
    return shape_wh
