"""The sizes of scenes: which there are, and which are nearest to an image's shape."""

import math
import re
from collections.abc import Sequence

from anyscene.errors import InputError

Size = tuple[int, int]  # height, width

STEP = 64  # pixels; the first stage's factor 8 times the UNet's
LEAST_AREA = 0.9  # of the side squared
AREAS = {"512-area": (512, 2.0), "1024-area": (1024, 4.0)}  # side, longest aspect


def parse_buckets(text: str) -> tuple[Size, ...]:
    """`512-area`, `1024-area` or sizes such as `512x512,448x576` (height x width).

    Raises `InputError` for anything else.
    """
    if text in AREAS:
        return area_buckets(*AREAS[text])
    sizes = []
    for word in text.split(","):
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", word.strip())
        if not match:
            raise InputError(
                f"buckets={text!r}: {word!r} is not HxW; "
                f"give {', '.join(AREAS)} or sizes such as 512x512,448x576"
            )
        sizes.append((int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(sizes))


def area_buckets(side: int, longest: float) -> tuple[Size, ...]:
    """Every size in steps of 64 with 0.9 to 1 times the area of a square, up to an aspect.

    For 1024 and 4 these are the sizes of Podell et al., "SDXL" (2023), appendix I; the idea is
    NovelAI's, "Aspect Ratio Bucketing" (2022).
    """
    lengths = range(STEP, int(side * math.sqrt(longest)) + 1, STEP)
    return tuple(
        (height, width)
        for height in lengths
        for width in lengths
        if LEAST_AREA * side**2 <= height * width <= side**2
        and max(height, width) <= longest * min(height, width)
    )


def by_nearness(buckets: Sequence[Size], height: int, width: int) -> list[Size]:
    """Buckets from the nearest to the farthest in the logarithm of their aspect."""
    aspect = math.log(height / width)
    return sorted(buckets, key=lambda size: abs(math.log(size[0] / size[1]) - aspect))
