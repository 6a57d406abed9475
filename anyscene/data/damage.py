"""What a sample's members claim, before anything believes it: images, and the description."""

import struct

from anyscene.data.sample import Meta
from anyscene.errors import DamageError

PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
JPEG_START = b"\xff\xd8"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame header (ITU T.81, table B.1)."""

LARGEST_SIDE = 2**31 - 1  # pixels


def check_description(meta: Meta) -> None:
    """Raises `DamageError` where what training takes of a description is not what it must be.

    KeyError and TypeError for one that is no table, or lacks a field.
    """
    captions = meta["captions"]
    if not isinstance(captions, list) or not captions or not all(map(_is_text, captions)):
        raise DamageError(f"meta.json has no captions but {captions!r:.80}")
    for pair, least in ((meta["original_size"], 1), (meta["crop_top_left"], 0)):
        if len(pair) != 2 or not all(
            type(value) is int and least <= value <= LARGEST_SIDE for value in pair
        ):
            raise DamageError(f"meta.json has {pair!r:.80} where two numbers belong")


def _is_text(caption: object) -> bool:
    """Whether a tokenizer takes it: half of a character is none."""
    try:
        return isinstance(caption, str) and bool(caption.encode().strip())
    except UnicodeEncodeError:
        return False


def check_image_sizes(members: dict[str, bytes], size: tuple[int, ...]) -> None:
    """Raises `DamageError` for an image whose header does not say `size` (height, width)."""
    for name, data in members.items():
        if name.endswith((".png", ".jpg")):
            claimed = image_size(data)
            if claimed is None:
                raise DamageError(f"{name} cannot be decoded")
            if claimed != size:
                raise DamageError(
                    f"{name} is {claimed[0]}x{claimed[1]}, not {size[0]}x{size[1]} pixels"
                )


def image_size(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a PNG or JPEG; None where there is none."""
    if data.startswith(PNG_START) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    at = len(JPEG_START)
    while data.startswith(JPEG_START) and at + 9 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None
