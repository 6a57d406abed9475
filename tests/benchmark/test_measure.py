"""Measuring a benchmark: what belongs to which scene."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from anyscene.benchmark.measure import Meter
from anyscene.benchmark.scenes import Benchmark
from anyscene.metrics.metric_set import MetricSet
from anyscene.metrics.photo import PhotoMetrics

SIZES = ((16, 16), (24, 16), (16, 16), (16, 24), (24, 16))


def found_where_it_is_red(image: Tensor, mask: Tensor) -> Tensor:
    return image[:, :1] * (mask >= 0)


@pytest.fixture
def mixed(tmp_path: Path) -> Benchmark:
    """Scenes of several sizes: in number n, 2 + 2 n of the mask's 12 columns are red."""
    scenes: list[Any] = []
    for number, (height, width) in enumerate(SIZES):
        mask, real = np.zeros((height, width), np.uint8), np.zeros((height, width, 3), np.uint8)
        mask[:, :12] = 255
        real[:, : 2 + 2 * number, 0] = 255
        names = {"mask": f"mask{number}.png", "real": f"real{number}.png"}
        for pixels, name in zip((mask, real), names.values(), strict=True):
            Image.fromarray(pixels).save(tmp_path / name)
        canvas = names["mask"]  # only asked whether there is one
        scenes.append({**names, "canvas": canvas, "height": height, "width": width, "truth": None})
    return Benchmark(tmp_path, {}, scenes)


def test_figures_of_scenes_of_several_sizes_stay_with_their_scenes(mixed: Benchmark):
    """Batches are of one size, so that scenes are measured in another order than they are in."""
    judge = PhotoMetrics(found_where_it_is_red)
    figures = Meter(mixed, MetricSet([], [], {}), judge, None, "cpu").measure_real()
    assert figures is not None
    expected = [(2 + 2 * number) / 12 for number in range(len(SIZES))]
    assert figures.values["mask_iou"][:, 0].tolist() == pytest.approx(expected)
    assert figures.values["lost"][:, 0].tolist() == pytest.approx([1 - iou for iou in expected])
