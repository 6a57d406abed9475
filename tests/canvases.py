"""What the tests of `anyscene generate` share: canvases and prompts."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
PROMPTS = ("a red mug on a meadow", "warm light from the left", "cool light from the right")


def write_canvas(path: Path, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> Path:
    """An RGBA file of (height, width) with a noisy square element."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4, 3] = 255
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)
