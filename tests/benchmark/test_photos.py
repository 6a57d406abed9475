"""The chain on real photos with a random tiny base: the code path, not the quality."""

import json
from pathlib import Path

import pytest
from tiny_sam import tiny_sam

from anyscene.benchmark.report import write_report
from anyscene.benchmark.run import run
from anyscene.benchmark.runs import read_runs
from anyscene.benchmark.scenes import read_benchmark
from anyscene.benchmark.score import score
from anyscene.cli import main
from anyscene.config import MetricsConfig
from anyscene.errors import InputError
from anyscene.metrics.sam import SamSegmenter
from anyscene.models.base import weights_sha256
from anyscene.scene_list import GenerateSettings

COCO = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini"


def test_photos_are_run_scored_and_reported(tiny_base_folder: Path, tmp_path: Path):
    if not COCO.is_dir():
        pytest.skip(f"{COCO} is not here")
    arguments = ["benchmark", "build", str(tmp_path / "coco"), "--images", str(COCO / "images")]
    arguments += ["--instances", str(COCO / "instances.json")]
    arguments += ["--captions", str(COCO / "captions.json")]
    assert main([*arguments, "--size", "4", "--pixels", "128", "--workers", "1"]) == 0
    benchmark = read_benchmark(tmp_path / "coco")
    settings = GenerateSettings(steps=1, device="cpu")
    folders = [(None, tmp_path / name) for name in ("paste", "inpaint_anything")]
    for _, folder in folders:
        run(benchmark, folder.name, str(tiny_base_folder), folder, settings)
    runs = read_runs(benchmark, folders)
    sam = str(tiny_sam(tmp_path / "sam"))
    score(benchmark, runs, tmp_path / "scores", MetricsConfig(), device="cpu", least=2, sam=sam)
    markdown = write_report(benchmark, runs, tmp_path / "scores").with_suffix(".md").read_text()
    assert "re-creation" in markdown
    record = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert record["benchmark"]["layouts"] == {"original": 2, "recombined": 2}
    assert {"layout: original", "layout: recombined"} <= record["groups"].keys()
    assert record["real"] is None
    weights = weights_sha256(SamSegmenter.from_pretrained(sam))[:12]
    assert record["found_by"] == f"the SAM of {sam} ({weights}), by points in each element"
    figures = record["methods"]["paste"]["figures"]
    for name in ("psnr_in_mask_blended", "mask_iou", "growth", "boundary_f", "colour_shift"):
        assert figures[name]["scenes"] == 4, name
    assert figures["colour_shift"]["value"] < 1  # pasted pixels; a random SAM finds anything
    assert record["not_computed"]["shadow_correlation"] == "metrics.judge is not given"
    with pytest.raises(InputError, match="find the same: give one"):
        score(benchmark, runs, tmp_path, MetricsConfig(judge="x"), device="cpu", sam=sam)
