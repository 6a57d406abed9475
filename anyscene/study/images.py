"""Images that tell nothing but their pixels: random names, no metadata, files of equal size."""

import hmac
import json
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of

PADDING = b"paDd"  # a PNG chunk that viewers skip: ancillary, private, may be copied
PNG_END = 12  # bytes of the last chunk
CHUNK_FRAME = 12  # bytes of a chunk beside its data
CHECK_WIDTH = 384  # pixels, at least


def blinded_name(secret: bytes, *what: str | int) -> str:
    """32 hexadecimal digits that only the study's secret connects with what they stand for."""
    message = json.dumps(what).encode()
    return hmac.digest(secret, message, "sha256").hex()[:32]


def read_image(
    path: Path, named: str, sha256: str | None = None, size: tuple[int, int] | None = None
) -> Image.Image:
    """The pixels of an image file.

    Args:
        path: the file.
        named: what errors call it.
        sha256: the checksum that it must have, if known.
        size: the (width, height) that it must have, if known.

    Raises:
        InputError: no such file, or one of another size.
        DamageError: another checksum, or no image.
    """
    if not path.is_file():
        raise InputError(f"{named}: no file {path}")
    if sha256 is not None and sha256_of(path) != sha256:
        raise DamageError(f"{named}: {path} has another checksum than its manifest says")
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DamageError(f"{named}: {path} cannot be read: {error}") from None
    if size not in (None, image.size):
        raise InputError(
            f"{named}: {path} has {image.width} x {image.height} pixels, "
            f"its manifest says {size[0]} x {size[1]}"
        )
    return image


def write_scene(image: Image.Image, path: Path) -> None:
    """A generated image as RGB."""
    _write_pixels(image.convert("RGB"), path)


def write_foreground(image: Image.Image, path: Path) -> None:
    """A canvas as RGBA; what is transparent is emptied, for a scene may be hidden there."""
    rgba = image.convert("RGBA")
    empty = Image.new("RGBA", rgba.size)
    visible = rgba.getchannel("A").point(lambda alpha: 255 if alpha else 0)
    _write_pixels(Image.composite(rgba, empty, visible), path)


def write_check(image: Image.Image, text: str, path: Path) -> None:
    """An attention check: a blurred image, large enough to read the instruction across it."""
    factor = max(1.0, CHECK_WIDTH / image.width)
    size = round(factor * image.width), round(factor * image.height)
    picture = image.convert("RGB").resize(size).filter(ImageFilter.GaussianBlur(size[0] / 24))
    draw = ImageDraw.Draw(picture)
    widest = ImageFont.load_default(100)
    letter = 84 * min(picture.size) / draw.multiline_textbbox((0, 0), text, widest)[2]
    font = ImageFont.load_default(letter)
    across, down = picture.width / 2, picture.height / 2
    half = letter * (1 + text.count("\n"))
    draw.rectangle((0, down - half, picture.width, down + half), "black")
    draw.multiline_text((across, down), text, "white", font, anchor="mm", align="center")
    _write_pixels(picture, path)


def equalise_sizes(paths: Sequence[Path]) -> None:
    """Pad PNG files, so that those of as many pixels have as many bytes.

    Smooth images compress better than detailed ones: the number of bytes would tell methods apart.
    """
    alike: defaultdict[tuple[int, int], list[Path]] = defaultdict(list)
    for path in paths:
        with Image.open(path) as image:
            alike[image.size].append(path)
    for group in alike.values():
        largest = max(path.stat().st_size for path in group) + CHUNK_FRAME
        for path in group:
            _pad(path, largest)


def _pad(path: Path, size: int) -> None:
    data = path.read_bytes()
    filling = bytes(size - len(data) - CHUNK_FRAME)
    checksum = zlib.crc32(PADDING + filling)
    chunk = struct.pack(">I", len(filling)) + PADDING + filling + struct.pack(">I", checksum)
    path.write_bytes(data[:-PNG_END] + chunk + data[-PNG_END:])


def _write_pixels(image: Image.Image, path: Path) -> None:
    """A PNG file of the pixels alone."""
    bare = Image.frombytes(image.mode, image.size, image.tobytes())
    bare.save(path, format="PNG")
