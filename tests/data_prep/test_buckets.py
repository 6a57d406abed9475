"""Which sizes of scenes there are, and which one an image gets."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyscene.errors import InputError
from data_prep.buckets import by_nearness, parse_buckets

# Podell et al., "SDXL" (2023), appendix I, the upright half
SDXL_UPRIGHT = """
    2048x512 1984x512 1920x512 1856x512 1792x576 1728x576 1664x576 1600x640 1536x640 1472x704
    1408x704 1344x704 1344x768 1280x768 1216x832 1152x832 1152x896 1088x896 1088x960 1024x960
"""


def test_the_1024_buckets_are_those_that_sdxl_was_trained_on() -> None:
    upright = {tuple(map(int, word.split("x"))) for word in SDXL_UPRIGHT.split()}
    flat = {(width, height) for height, width in upright}
    assert sorted(parse_buckets("1024-area")) == sorted(upright | flat | {(1024, 1024)})


def test_the_512_buckets() -> None:
    assert parse_buckets("512-area") == (
        (384, 640),
        (448, 576),
        (512, 512),
        (576, 448),
        (640, 384),
    )


def test_custom_buckets_are_height_by_width() -> None:
    assert parse_buckets("512x512, 448x576,512x512") == ((512, 512), (448, 576))
    for text in ("512", "0x64", "64x", "64x64,", "640-area", "-64x64"):
        with pytest.raises(InputError, match="is not HxW; give 512-area, 1024-area or sizes"):
            parse_buckets(text)


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_the_nearest_bucket_in_aspect_comes_first(height: int, width: int) -> None:
    def distance(size: tuple[int, int]) -> float:
        return abs(math.log((size[0] / size[1]) / (height / width)))

    order = by_nearness(parse_buckets("1024-area"), height, width)
    assert sorted(order) == sorted(parse_buckets("1024-area"))
    distances = [distance(size) for size in order]
    assert distances == pytest.approx(sorted(distances))
