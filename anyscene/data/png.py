"""The masks that preparation writes, decoded in half of OpenCV's time: grey, 8 bits, no filter."""

import struct
import zlib

import numpy as np

START = b"\x89PNG\r\n\x1a\n"
GREY_8_BITS = bytes([8, 0, 0, 0, 0])
"""Bit depth, colour type, compression, filter method, interlace."""

MOST_PACKED = 2**17
"""Bytes of a compressed image. They become at most 1032 times as many, whatever they claim."""


def decode_plain_grey(data: bytes, size: tuple[int, ...]) -> np.ndarray | None:
    """Pixels uint8 of a grey PNG of 8 bits and `size` (height, width), its rows unfiltered.

    None for every other file, damaged ones among them: a real decoder has the last word there. The
    checksums of all chunks are looked at (PNG specification, third edition, sections 5 and 9).
    """
    chunks = _chunks(data)
    names = [name for name, _ in chunks]
    if len(chunks) < 3 or names != [b"IHDR", *[b"IDAT"] * (len(names) - 2), b"IEND"]:
        return None
    height, width = size
    if chunks[0][1] != struct.pack(">II", width, height) + GREY_8_BITS:
        return None
    length = height * (1 + width)  # each row has the number of its filter before it
    packed = b"".join(part for _, part in chunks[1:-1])
    if len(packed) > MOST_PACKED:
        return None
    try:
        stored = zlib.decompress(packed, bufsize=length)
    except zlib.error:
        return None
    if len(stored) != length:
        return None
    rows = np.frombuffer(stored, np.uint8).reshape(height, 1 + width)
    return None if rows[:, 0].any() else rows[:, 1:]


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of a PNG's chunks; [] unless it is whole and has no others behind."""
    chunks, at = [], len(START)
    if not data.startswith(START):
        return []
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return []
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at = end + 4
    return chunks
