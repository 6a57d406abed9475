"""The metric set: reasons, sharing, equal results on any split over batches and ranks."""

import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forked import run_ranks
from PIL import Image
from small_networks import CAPTIONS, save_all
from torch import Tensor

from anyscene.config import MetricsConfig
from anyscene.errors import InputError
from anyscene.metrics import networks
from anyscene.metrics.build import build_metric_set
from anyscene.metrics.catalogue import CATALOGUE, MetricResult, ScoreBatch
from anyscene.metrics.metric_set import MetricSet
from anyscene.metrics.networks import Networks
from anyscene.metrics.preprocess import as_saved
from anyscene.metrics.reference import Reference

COUNT, SIDE = 7, 48
NEED_WEIGHTS_OF_THEIR_OWN = {"aesthetic_v2", "lpips", "lpips_blended"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MetricsConfig:
    return save_all(tmp_path_factory.mktemp("networks"))


def batch() -> ScoreBatch:
    """Seven scenes, each with two elements, numbered out of order."""
    generator = torch.Generator().manual_seed(0)
    image, raw, real = torch.rand(3, COUNT, 3, SIDE, SIDE, generator=generator)
    alpha = torch.zeros(COUNT, 1, SIDE, SIDE)
    alpha[:, :, 8:24, 4:30] = 1
    return ScoreBatch(
        numbers=[10, 3, 7, 1, 8, 2, 5],
        image=image,
        raw=raw,
        prompts=[CAPTIONS[index % 4] for index in range(COUNT)],
        real=real,
        foreground=real,
        alpha=alpha,
        boxes=[[(4, 8, 18, 24), (18, 8, 30, 24)]] * COUNT,
    )


def part(whole: ScoreBatch, chosen: list[int]) -> ScoreBatch:
    """Some scenes of a batch, in this order."""
    values: dict[str, Any] = {}
    for name, value in vars(whole).items():
        if isinstance(value, Tensor):
            values[name] = value[chosen]
        elif value is not None:
            values[name] = [value[index] for index in chosen]
    return ScoreBatch(**values)


def scored(config: MetricsConfig, splits: list[list[int]]) -> dict[str, MetricResult]:
    metrics = build_metric_set(config)
    for chosen in splits:
        metrics.update(part(batch(), chosen))
    return metrics.compute(intervals=True, resamples=50)


@pytest.fixture(scope="module")
def whole(config: MetricsConfig) -> dict[str, MetricResult]:
    return scored(config, [list(range(COUNT))])


def test_every_metric_has_a_value_or_a_reason(whole):
    assert list(whole) == list(CATALOGUE)
    missing = {name for name, result in whole.items() if result.value is None}
    assert missing == NEED_WEIGHTS_OF_THEIR_OWN
    assert whole["lpips"].text() == "not computed: metrics.lpips is false"
    assert whole["aesthetic_v2"].reason == "metrics.aesthetic_v2 is not given"
    for name in CATALOGUE.keys() - missing:
        result = whole[name]
        assert result.images == COUNT
        per_image = result.per_image
        assert (per_image is not None) == CATALOGUE[name].per_image, name
        if per_image is not None:
            assert result.value == pytest.approx(sum(per_image) / COUNT)
        if name in ("fid", "fd_dinov2"):
            assert result.interval is None
        else:
            assert result.interval is not None
            assert result.interval[0] < result.value < result.interval[1], name
    assert whole["clip_score"].details["network"] == "CLIP ViT-16/16@32"


def test_lpips_without_torchvision_gives_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(networks, "find_spec", lambda _: None)
    metrics = build_metric_set(MetricsConfig(lpips=True))
    metrics.update(batch())
    told = metrics.compute()["lpips"].text()
    assert told == "not computed: LPIPS needs torchvision: pip install torchvision"


def test_without_weights_only_pixels_are_compared():
    metrics = build_metric_set(MetricsConfig())
    metrics.update(batch())
    found = {name for name, result in metrics.compute().items() if result.value is not None}
    assert found == {
        f"{name}_in_mask{end}" for name in ("psnr", "ssim") for end in ("", "_blended")
    }


def test_fidelity_before_blending_is_of_the_raw_image_and_after_it_of_the_final_one():
    whole = batch()
    metrics = build_metric_set(MetricsConfig())
    metrics.update(replace(whole, image=whole.foreground))
    results = metrics.compute()
    assert results["psnr_in_mask_blended"].value == 100  # the elements' own pixels
    assert results["ssim_in_mask_blended"].value == pytest.approx(1)
    assert (results["psnr_in_mask"].value or 0) < 20
    assert (results["ssim_in_mask"].value or 0) < 0.5


def test_judge_is_shown_the_raw_image_first_and_the_final_one_for_what_is_blended():
    whole, shown = batch(), []
    judge = SimpleNamespace(update=lambda *values: shown.extend(values))
    MetricSet([], [], {}, judge).update(whole)
    for value, wanted in zip(
        shown, (whole.raw, whole.image, whole.real, whole.alpha), strict=False
    ):
        assert torch.equal(value, wanted)
    assert shown[4:] == [[None] * COUNT]


def test_a_batch_without_what_a_metric_needs_gives_a_reason(config):
    metrics = build_metric_set(config)
    metrics.update(ScoreBatch(numbers=[0, 1], image=batch().image[:2]))
    results = metrics.compute()
    assert results["clip_score"].reason == "no image came with prompts"
    assert results["psnr_in_mask"].reason == "no image came with foreground and alpha"
    assert results["fid"].reason == "fewer than two images with image and real"
    assert results["aesthetic_v1"].images == 2
    metrics.update(replace(part(batch(), [2, 4]), real=None))  # numbers 7 and 8
    scores = metrics.compute()["clip_i"].per_image
    assert scores is not None
    assert [math.isnan(score) for score in scores] == [True, True, False, False]


def assert_equal_results(found: dict[str, MetricResult], expected: dict[str, MetricResult]) -> None:
    for name, result in expected.items():
        assert found[name].reason == result.reason
        for field in ("value", "interval", "per_image", "replicates"):
            one, other = getattr(found[name], field), getattr(result, field)
            assert one == (None if other is None else pytest.approx(other, abs=1e-9)), name


def test_batches_and_order_do_not_matter(config, whole):
    assert_equal_results(scored(config, [[6, 2], [0], [5, 4, 3, 1]]), whole)
    assert_equal_results(scored(replace(config, micro_batch=3), [[1], [0, 2, 3, 4, 5, 6]]), whole)


def test_values_are_in_the_order_of_the_numbers(config, whole):
    metrics = build_metric_set(config, names=["clip_cosine"])
    metrics.update(batch())
    assert metrics.numbers() == [1, 2, 3, 5, 7, 8, 10]
    alone = build_metric_set(config, names=["clip_cosine"])
    alone.update(part(batch(), [4]))  # the scene of number 8
    cosines = whole["clip_cosine"].per_image
    assert cosines is not None
    assert alone.compute()["clip_cosine"].value == pytest.approx(cosines[5], abs=1e-12)


def test_training_and_the_saved_files_agree(config, whole, tmp_path):
    """Offline scoring reads PNG files of what training has as tensors on the device."""
    saved, files = batch(), {}
    for name in ("image", "raw", "real", "foreground", "alpha"):
        for index, values in enumerate(getattr(saved, name)):
            pixels = (values * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels.squeeze()).save(tmp_path / f"{name}{index}.png")
        files[name] = torch.stack([read(tmp_path / f"{name}{index}.png") for index in range(COUNT)])
    metrics = build_metric_set(config)
    metrics.update(replace(saved, **files))
    found = metrics.compute()
    for name, result in whole.items():
        if result.value is not None:
            assert found[name].value == pytest.approx(result.value, abs=1e-6), name


def read(path: Path) -> Tensor:
    """u8 C H W of a file."""
    with Image.open(path) as image:
        pixels = np.array(image)
    return torch.from_numpy(pixels).reshape(SIDE, SIDE, -1).permute(2, 0, 1)


def test_release_forgets_and_the_set_can_be_used_again(config, whole):
    metrics = build_metric_set(config)
    metrics.update(batch())
    metrics.release()
    metrics.update(batch())
    assert metrics.compute()["fid"].value == pytest.approx(whole["fid"].value, abs=1e-9)
    assert metrics.figures()["images"] == COUNT


@pytest.mark.gpu
def test_a_gpu_gives_the_same_figures(config, whole, tmp_path):
    """Also against reference statistics, which are read to the CPU."""
    for settings in (config, replace(config, reference=str(save_references(config, tmp_path)))):
        metrics = build_metric_set(settings, "cuda")
        metrics.update(batch())
        for name, result in metrics.compute(intervals=True, resamples=50).items():
            if result.value is not None:
                assert result.value == pytest.approx(whole[name].value, rel=1e-3, abs=1e-3), name
        metrics.release()
        assert not any(weights.is_cuda for weights in metrics.parameters())


def test_a_number_that_is_there_twice_is_an_error(config):
    metrics = build_metric_set(config, names=["clip_score"])
    metrics.update(part(batch(), [0, 0]))
    with pytest.raises(ValueError, match="two images have the same number"):
        metrics.compute()


def test_names_are_checked(config):
    with pytest.raises(InputError, match="no metric is called 'clip_scor'; did you mean"):
        build_metric_set(config, names=["clip_scor"])


def test_a_head_for_another_clip_is_refused(config, tmp_path):
    head = tmp_path / "head.pth"
    torch.save({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, head)
    with pytest.raises(InputError, match="takes embeddings of 512 numbers, and the CLIP has 16"):
        build_metric_set(replace(config, aesthetic_v1=str(head)))


def save_references(config: MetricsConfig, folder: Path) -> Path:
    """Statistics of the batch's real images."""
    networks, real = Networks(config), batch().real
    assert real is not None
    for name, extractor in (("inception", networks.inception()), ("clip", networks.clip("clip"))):
        features = extractor(as_saved(real))
        Reference.of_features(extractor.record, features, (SIDE, SIDE)).save(folder, name)
    return folder


def test_reference_statistics_stand_for_the_real_images(config, whole, tmp_path):
    save_references(config, tmp_path)
    metrics = build_metric_set(replace(config, reference=str(tmp_path)))
    metrics.update(replace(batch(), real=None))
    results = metrics.compute()
    for name in ("fid", "kid", "cmmd"):
        assert results[name].value == pytest.approx(whole[name].value, abs=1e-9)
        assert results[name].details["reference_images"] == COUNT
    assert results["fd_dinov2"].reason == f"metrics.reference={str(tmp_path)!r} has no dinov2.json"
    with pytest.raises(InputError, match="the reference of fid is of images of 48x48"):
        metrics.update(replace(batch(), image=torch.rand(COUNT, 3, 32, 32)))


def _score_share(rank: int, config: MetricsConfig, folder: str) -> None:
    """Uneven shares in three processes, then in the first two of them (one without an image)."""
    torch.set_num_threads(1)
    for ranks, shares in ((3, [[6, 0, 4], [1, 2, 5], [3]]), (2, [[], [3, 1, 0, 2, 5, 4, 6]])):
        if rank >= ranks:
            continue
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store{ranks}",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=120),
        )
        splits = [shares[rank][:2], shares[rank][2:]]
        results = scored(config, [chosen for chosen in splits if chosen])
        found = {name: vars(result) for name, result in results.items()}
        Path(folder, f"{ranks}-{rank}.json").write_text(json.dumps(found))
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_and_three_processes_with_uneven_shares_equal_one(config, tmp_path):
    """One of two has no image at all."""
    expected = scored(config, [list(range(COUNT))])
    run_ranks(_score_share, 3, config, str(tmp_path))
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 5
    for file in files:
        found = {n: MetricResult(**fields) for n, fields in json.loads(file.read_text()).items()}
        for name, result in found.items():
            if result.interval is not None:
                found[name] = replace(result, interval=tuple(result.interval))
        assert_equal_results(found, expected)
