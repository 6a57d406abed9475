"""Scores and their report: rows of this run only, and a reason for every metric that is missing."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import save_tiny_judge

from anyscene.benchmark.likeness import LIKENESS
from anyscene.benchmark.measure import INFO
from anyscene.benchmark.options import metrics_config, named_folders
from anyscene.benchmark.pictures import gallery
from anyscene.benchmark.report import write_report
from anyscene.benchmark.run import run
from anyscene.benchmark.runs import Run, read_runs
from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.score import score
from anyscene.config import MetricsConfig
from anyscene.errors import ConfigError, DamageError, InputError
from anyscene.generate import generate
from anyscene.scene_list import GenerateSettings, Scene

METHODS = ("anyscene", "stable_diffusion", "paste", "known_shadow")


@pytest.fixture(scope="module")
def runs(
    demo_benchmark: Benchmark,
    tiny_export: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    settings = GenerateSettings(images=2, steps=2, guidance_scale=2.0, device="cpu")
    for name in METHODS:
        run(demo_benchmark, name, str(tiny_export), folder / name, settings)
    return read_runs(demo_benchmark, [(None, folder / name) for name in METHODS])


@pytest.fixture(scope="module")
def scored(
    demo_benchmark: Benchmark, runs: list[Run], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the scores by an untrained judge."""
    out = tmp_path_factory.mktemp("scores")
    judge = save_tiny_judge(out / "judge")
    score(demo_benchmark, runs, out, MetricsConfig(judge=str(judge)), device="cpu", least=2)
    return out


def test_scores_are_means_of_the_table_of_images(scored: Path, runs: list[Run]):
    record = json.loads((scored / "scores.json").read_text())
    with (scored / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 * 2
    for run_of in runs:
        own = [row for row in rows if row["method"] == run_of.name]
        for metric in ("psnr_in_mask", "psnr_in_mask_blended", "mask_iou", "shadow_correlation"):
            by_scene: dict[str, list[float]] = {}
            for row in own:
                by_scene.setdefault(row["scene_id"], []).append(float(row[metric] or "nan"))
            expected = np.nanmean([np.mean(values) for values in by_scene.values()])
            figure = record["methods"][run_of.name]["figures"][metric]
            assert figure["value"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    psnr = {name: own["figures"] for name, own in record["methods"].items()}
    before, after = (psnr["paste"][f"psnr_in_mask{end}"]["value"] for end in ("", "_blended"))
    assert after > before + 8  # the elements' own pixels, but for the feather
    assert psnr["paste"]["psnr_in_mask"] == psnr["stable_diffusion"]["psnr_in_mask"]


def test_metric_without_weights_has_a_reason_and_no_figure(scored: Path):
    record = json.loads((scored / "scores.json").read_text())
    assert record["not_computed"]["fid"] == "metrics.inception is not given"
    assert record["not_computed"]["clip_score"] == "metrics.clip is not given"
    for own in record["methods"].values():
        assert not own["figures"].keys() & record["not_computed"].keys()
        known = own["figures"].keys() | record["not_computed"].keys()
        assert known == set(INFO) - set(LIKENESS)  # which are of subject sets


def test_method_that_is_told_the_answer_is_never_the_best(scored: Path):
    record = json.loads((scored / "scores.json").read_text())
    assert record["methods"]["known_shadow"]["told_the_answer"]
    for entry in record["comparisons"].values():
        assert entry["best"] != "known_shadow"
        assert (entry["ours_against_best_other"] or {}).get("against") != "known_shadow"


def test_report_shows_this_run_only(demo_benchmark: Benchmark, runs: list[Run], scored: Path):
    page = write_report(demo_benchmark, runs, scored)
    html, markdown = page.read_text(), (scored / "report.md").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)  # self-contained
    for text in (html, markdown):
        for name in METHODS:
            assert name in text
        assert "not computed: metrics.inception is not given" in text
    figures = json.loads((scored / "scores.json").read_text())["methods"]["anyscene"]["figures"]
    assert f"{figures['psnr_in_mask']['value']:.3g}" in markdown
    for plot in ("bars.svg", "groups.svg"):
        assert (scored / "report" / plot).stat().st_size > 1000
        assert f"report/{plot}" in markdown
    assert re.search(r"anyscene: \d+ images, model", markdown)
    with Image.open(scored / "report" / "grid.png") as grid:
        assert grid.width > 5 * 160  # foreground, four methods, real
    before = {path: path.read_bytes() for path in scored.rglob("report*") if path.is_file()}
    write_report(demo_benchmark, runs, scored)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(InputError, match="score these runs again"):
        write_report(demo_benchmark, runs[:2], scored)
    with pytest.raises(InputError, match=r"no scores\.json"):
        write_report(demo_benchmark, runs, scored / "judge")


def test_set_metrics_compare_with_the_real_images_and_have_a_spread_over_seeds(
    demo_benchmark: Benchmark, runs: list[Run], small_metrics: MetricsConfig, tmp_path: Path
):
    record = score(demo_benchmark, runs[:2], tmp_path, small_metrics, device="cpu", least=2)
    own = record["methods"]["stable_diffusion"]
    for name in ("fid", "kid", "cmmd", "fd_dinov2"):
        figure = own["figures"][name]
        assert len(figure["seeds"]) == 2
        assert figure["value"] == pytest.approx(np.mean(figure["seeds"]))
        assert figure["spread"] == pytest.approx(np.std(figure["seeds"], ddof=1))
        assert own["details"][name]["reference_images"] == 4
        bootstrapped = name in ("kid", "cmmd")
        assert (figure["interval"] is not None) == bootstrapped
    assert {"clip_score", "aesthetic_v1", "dino_i"} <= own["figures"].keys()
    assert record["not_computed"]["shadow_correlation"] == "metrics.judge is not given"
    assert record["not_computed"]["growth"] == "neither metrics.judge nor --sam"
    assert own["figures"]["colour_shift"]["value"] > 0
    for group in record["groups"].values():
        assert not {"fid", "kid", "cmmd"} & group["methods"]["anyscene"].keys()


@pytest.mark.parametrize("kind", ["image", "image_raw", "canvas"])
def test_image_that_is_not_the_one_that_was_made_is_not_scored(
    demo_benchmark: Benchmark, runs: list[Run], tmp_path: Path, kind: str
):
    folder = tmp_path / "run"
    shutil.copytree(runs[1].folder, folder)
    (copy,) = read_runs(demo_benchmark, [(None, folder)])
    path = folder / str(copy.lines[2][1][kind])
    with Image.open(path) as file:
        changed = file.copy()
    changed.putpixel((0, 0), (1, 2, 3, 4)[: len(changed.getbands())])
    changed.save(path)
    with pytest.raises(DamageError, match=rf"{path.name} is missing or not the file"):
        score(demo_benchmark, [copy], tmp_path / "scores", MetricsConfig(), device="cpu")
    assert not (tmp_path / "scores" / "scores.json").exists()


def test_gallery_has_a_row_a_foreground_and_a_column_a_context(
    demo_benchmark: Benchmark, tiny_export: Path, tmp_path: Path
):
    ends = ("on the beach at noon", "in the snow")
    scenes = []
    for number, scene in enumerate(demo_benchmark.scenes[:3]):
        prompts = tuple(f"toy {number} {end}" for end in ends)
        scenes.append(Scene(scene["scene_id"], prompts, demo_benchmark.folder / scene["canvas"]))
    settings = GenerateSettings(steps=1, device="cpu")
    generate(str(tiny_export), scenes, settings, tmp_path)
    sheet = gallery(tmp_path / "manifest.jsonl")
    assert sheet.height > 3 * 160
    assert sheet.width > 3 * 160
    generate(str(tiny_export), [Scene("more", ("x",), scenes[0].canvas)], settings, tmp_path)
    with pytest.raises(InputError, match="different numbers of prompts"):
        gallery(tmp_path / "manifest.jsonl")


def test_options_of_metrics_and_runs():
    pairs = ["metrics.clip=a=b", "lpips=true", "metrics.micro_batch=4", "dino=null"]
    config = metrics_config(pairs)
    assert (config.clip, config.lpips, config.micro_batch, config.dino) == ("a=b", True, 4, None)
    for pair, message in (
        ("metrics.clap=x", "did you mean 'clip'"),
        ("clip", "is no metrics.KEY=VALUE"),
        ("lpips=1", "must be true or false"),
        ("micro_batch=0", "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            metrics_config([pair])
    assert named_folders(["ours=a/b", "c/d", "e/f=g"]) == [
        ("ours", Path("a/b")),
        (None, Path("c/d")),
        (None, Path("e/f=g")),
    ]
