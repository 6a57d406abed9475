"""`anyscene evaluate` on an export: agrees with the validation of the training that made it."""

import json
from pathlib import Path

import pytest
from tiny import tiny_config

from anyscene.cli import main

JUDGE = Path(__file__).resolve().parents[1] / "anyscene" / "assets" / "demo_judge"


@pytest.fixture(scope="module")
def judged_run(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from anyscene.train import train

    runs = tmp_path_factory.mktemp("judged")
    return train(tiny_config(tiny_base_folder, demo_shards, runs, f"metrics.judge={JUDGE}"))


def evaluate(run: Path, shards: Path, *arguments: str) -> int:
    export = run / "export"
    if not export.is_dir():
        assert main(["export", str(run), "--out", str(export)]) == 0
    command = ["evaluate", str(export), f"--shards={shards / 'val'}", f"--judge={JUDGE}"]
    return main([*command, f"--out={run / 'evaluation.json'}", "--device=cpu", *arguments])


def test_an_export_has_the_figures_that_its_training_logged(
    judged_run: Path, demo_shards: Path
) -> None:
    assert evaluate(judged_run, demo_shards, "--samples=2", "--controls") == 0
    record = json.loads((judged_run / "evaluation.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    logged = json.loads((judged_run / "samples" / "step-00000003" / "metrics.json").read_text())
    before, after = rows["FIM, before blending"], rows["FIM, after blending"]
    for name, value in before["figures"].items():
        own = after["figures"][name] if name in ("seam", "colour_shift") else value
        assert own == pytest.approx(logged[name], rel=1e-6, abs=1e-6), name
    assert after["figures"]["psnr_in_mask"] == pytest.approx(logged["psnr_in_mask_blended"])
    low, high = before["intervals"]["psnr_in_mask"]
    assert low <= before["figures"]["psnr_in_mask"] <= high
    assert rows["real scenes"]["figures"]["shadow_correlation"] > 0.8
    assert "psnr_in_mask" not in rows["real scenes"]["figures"]
    assert rows["first stage alone"]["figures"]["psnr_in_mask"] < 30  # a random one
    assert len(record["controls"]) == 7
    assert record["samples"] == 2


def test_a_mistake_is_one_line(
    judged_run: Path, demo_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(judged_run, demo_shards, "--samples=1") == 2
    assert main(["evaluate", "nowhere", "--shards=x", "--judge=y", "--out=z"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
