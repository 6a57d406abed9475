"""All metrics together: names, missing truths, order, and equal results on any split over ranks."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_ranks
from torch import Tensor

from anyscene.metrics.bootstrap import bootstrap_interval
from anyscene.metrics.judge import ClassMeans, Judge
from anyscene.metrics.segmenter import SmallSegmenter
from anyscene.metrics.suite import SceneMetrics
from anyscene.metrics.truth import Labels, encode_map

SIZE = 32
WITHOUT_TRUTH = {"psnr_in_mask", "psnr_in_mask_blended", "mask_iou", "outside_share", "growth"}
WITHOUT_TRUTH |= {"lost", "boundary_f", "seam", "colour_shift", "fid_small", "images"}
WITH_TRUTH = {"place_accuracy", "direction_accuracy", "tone_accuracy", "light_accuracy"}
WITH_TRUTH |= {"shadow_correlation", "shadow_factual", "shadow_swapped", "shadow_skipped"}
LABELS = [Labels("beach", "left", "warm"), Labels("snow", "right", "cool")]


def judge() -> Judge:
    """A judge with random weights, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        means = ClassMeans.fit(torch.rand(8, 3, SIZE, SIZE), LABELS * 4)
        return Judge(means, SmallSegmenter().eval(), {"noise_floor": {}})


def scenes(count: int) -> dict[str, Any]:
    """Arguments of `SceneMetrics.update`: random images, a square element, a shadow beside it."""
    generator = torch.Generator().manual_seed(0)
    generated, blended, scene = torch.rand(3, count, 3, SIZE, SIZE, generator=generator)
    alpha = torch.zeros(count, 1, SIZE, SIZE)
    alpha[:, :, 8:16, 12:20] = 1
    shadows = torch.zeros(2, SIZE, SIZE)
    shadows[0, 14:19, 20:28] = 1
    shadows[1, 14:19, 4:12] = 1
    truths = [
        {
            "place": LABELS[index % 2].place,
            "direction": LABELS[index % 2].direction,
            "tone": LABELS[index % 2].tone,
            "shadow": encode_map(shadows[index % 2]),
            "shadow_swapped": encode_map(shadows[1 - index % 2]),
        }
        for index in range(count)
    ]
    tensors = {"generated": generated, "blended": blended, "scene": scene, "alpha": alpha}
    return tensors | {"truths": truths}


def part(batch: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    return {name: values[first:last] for name, values in batch.items()}


def test_names_without_and_with_truth() -> None:
    batch = scenes(3)
    metrics = SceneMetrics(judge())
    metrics.update(**{**batch, "truths": [None] * 3})
    assert set(metrics.compute()) == WITHOUT_TRUTH
    metrics.update(**batch)
    results = metrics.compute()
    assert set(results) == WITHOUT_TRUTH | WITH_TRUTH
    assert results["images"] == 6
    columns = metrics.per_image()
    assert set(columns) == (WITHOUT_TRUTH | WITH_TRUTH) - {"fid_small", "images"}
    assert {len(values) for values in columns.values()} == {6}
    assert [math.isnan(value) for value in columns["place_accuracy"]] == [True] * 3 + [False] * 3


def test_results_are_means_of_the_images_and_reset_forgets() -> None:
    batch = scenes(4)
    metrics = SceneMetrics(judge())
    metrics.update(**batch)
    results, columns = metrics.compute(), metrics.per_image()
    for name, values in columns.items():
        assert results[name] == pytest.approx(np.nanmean(values), abs=1e-12)
    metrics.reset()
    metrics.update(**part(batch, 0, 2))
    assert metrics.compute()["images"] == 2


def test_blending_counts_in_its_own_figures_alone() -> None:
    batch = scenes(4)
    metrics, blended = SceneMetrics(judge()), SceneMetrics(judge())
    metrics.update(**batch)
    blended.update(**{**batch, "blended": batch["scene"]})
    before, after = metrics.compute(), blended.compute()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"psnr_in_mask_blended", "seam", "colour_shift"}
    assert after["psnr_in_mask_blended"] == pytest.approx(100)
    assert after["colour_shift"] == 0


def test_real_scenes_are_perfect_where_no_judge_is_asked() -> None:
    batch = scenes(4)
    metrics = SceneMetrics(judge())
    metrics.update(**{**batch, "generated": batch["scene"], "blended": batch["scene"]})
    results = metrics.compute()
    assert results["psnr_in_mask"] == results["psnr_in_mask_blended"] == pytest.approx(100)
    assert results["fid_small"] == pytest.approx(0, abs=1e-9)


def test_an_outer_autocast_does_not_change_the_results() -> None:
    batch = scenes(2)
    plain, inside = SceneMetrics(judge()), SceneMetrics(judge())
    plain.update(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        inside.update(**batch)
    assert plain.compute() == inside.compute()


def _measure_share(rank: int, shares: list[list[int]], folder: str) -> None:
    """One of two processes: for each split, its results and its view of all images."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    batch = scenes(7)
    found = []
    for share in shares:
        metrics = SceneMetrics(judge())
        for first, last in [(0, share[0])] if rank == 0 else [(share[0], 7)]:
            if last > first:
                metrics.update(**part(batch, first, last))
        found.append({"results": metrics.compute(), "images": metrics.per_image()})
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_with_uneven_shares_equal_one(tmp_path: Path) -> None:
    whole = SceneMetrics(judge())
    whole.update(**scenes(7))
    results, images = whole.compute(), whole.per_image()
    shares = [[5], [7], [0]]  # images of rank 0; the other rank has the rest, or none
    run_ranks(_measure_share, 2, shares, str(tmp_path))
    for rank in range(2):
        for found in json.loads((tmp_path / f"rank{rank}.json").read_text()):
            assert found["results"] == pytest.approx(results, rel=1e-6, abs=1e-10)
            for name, values in images.items():
                assert found["images"][name] == pytest.approx(values, abs=1e-5, nan_ok=True)


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bootstrap_interval_agrees_with_the_normal_one() -> None:
    values = normal(400, seed=0)
    low, high = bootstrap_interval(values.tolist(), seed=0)
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.02)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.02)
    wider = bootstrap_interval(values.tolist(), seed=0, level=0.99)
    assert wider[0] < low < high < wider[1]


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(normal(40, seed).tolist(), seed, level=0.8, resamples=400)
        covered += low < 0 < high
    assert 70 <= covered <= 90


def test_bootstrap_depends_on_seed_and_values_alone() -> None:
    values = normal(30, seed=0).tolist()
    interval = bootstrap_interval(values, seed=0)
    assert interval == bootstrap_interval([*values[::-1], math.nan], seed=0)
    assert interval != bootstrap_interval(values, seed=1)
    assert bootstrap_interval([2.0, 2.0], seed=0) == (2.0, 2.0)
    assert all(math.isnan(value) for value in bootstrap_interval([1.0], seed=0))
