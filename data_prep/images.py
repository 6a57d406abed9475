"""Image files in and out: decoded only as large as is needed, encoded for a fast training."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.boxes import as_uint8
from data_prep.framing import reduced
from data_prep.preparation import RejectedError

LOSSLESS_SIDE = 128  # pixels: scenes up to this square are stored as PNG
JPEG_FULL_COLOUR = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
PNG_MASK = (
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_DEFAULT,
    cv2.IMWRITE_PNG_COMPRESSION,
    2,
)  # read six times as fast as with OpenCV's defaults; mask and numbers together are smaller
REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
LARGEST_REDUCTION = max(REDUCED)


def decode_image(path: Path, reduction: int = 1) -> NDArray[np.uint8]:
    """An image in its stored orientation, u8 H W 3, blue first. Grey and CMYK become colour.

    Its sides are divided by the reduction and rounded up; a JPEG is not even decoded at full size.
    Raises `RejectedError` for a file that cannot be decoded whole.
    """
    data = np.fromfile(path, np.uint8)
    is_jpeg = data[:2].tobytes() == b"\xff\xd8"
    try:
        flags = REDUCED[reduction if is_jpeg else 1] | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(data, flags)
    except cv2.error:  # an empty file, or an absurd size
        image = None
    if image is None:
        raise RejectedError("unreadable file")
    return as_uint8(image) if is_jpeg else reduced(as_uint8(image), reduction)


def encode_scene(image: NDArray[np.uint8], *, lossless: bool) -> bytes:
    """A PNG or a JPEG of an image, u8 H W 3, blue first."""
    return _encode(".png", image) if lossless else _encode(".jpg", image, JPEG_FULL_COLOUR)


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """A PNG of a mask or of element numbers, u8 H W."""
    return _encode(".png", mask, PNG_MASK)


def _encode(extension: str, image: NDArray[np.uint8], parameters: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(extension, image, parameters)
    if not done:
        raise RuntimeError(f"OpenCV cannot encode an image of shape {image.shape}")
    return data.tobytes()
