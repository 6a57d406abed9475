"""The quick decoder of plain masks against OpenCV's, on whole and damaged files."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscene.data.png import MOST_PACKED, START, decode_plain_grey
from data_prep.images import encode_mask


def soft_mask(size: tuple[int, int] = (48, 40)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, (20, 20), (14, 9), 30, 0, 360, 255, -1)
    return cv2.GaussianBlur(mask, (0, 0), 1)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_of(packed: bytes, size: tuple[int, int] = (48, 40)) -> bytes:
    """A grey PNG whose compressed content is `packed`."""
    header = struct.pack(">II", size[1], size[0]) + bytes([8, 0, 0, 0, 0])
    return START + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(48, 40), (512, 512), (1, 700)])
def test_a_prepared_mask_is_decoded_as_opencv_does(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for mask in (soft_mask(size), random // 200):
        found = decode_plain_grey(encode_mask(mask), size)
        assert found is not None
        np.testing.assert_array_equal(found, mask)


def test_other_files_are_left_to_opencv() -> None:
    mask = soft_mask()
    filtered = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH])
    colour = cv2.imencode(".png", cv2.merge([mask] * 3))
    others = [filtered[1].tobytes(), colour[1].tobytes(), cv2.imencode(".jpg", mask)[1].tobytes()]
    assert [decode_plain_grey(data, (48, 40)) for data in [*others, b"", START]] == [None] * 5
    assert decode_plain_grey(encode_mask(mask), (40, 48)) is None


@pytest.mark.parametrize("change", [-1, 1])
def test_too_few_or_too_many_pixels_are_left_to_opencv(change: int) -> None:
    packed = zlib.compress(bytes(48 * 41 + change))
    assert decode_plain_grey(png_of(packed), (48, 40)) is None
    assert decode_plain_grey(png_of(zlib.compress(bytes(48 * 41))), (48, 40)) is not None


def test_a_large_file_is_not_inflated() -> None:
    packed = zlib.compress(bytes(1100 * MOST_PACKED), 9)
    assert len(packed) > MOST_PACKED
    assert decode_plain_grey(png_of(packed), (48, 40)) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_flipped_bit_is_never_another_image(data: st.DataObject) -> None:
    """Every byte is under a checksum, or is one."""
    whole = encode_mask(soft_mask())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    assert decode_plain_grey(bytes(damaged), (48, 40)) is None
