"""`anyscene evaluate` on an export: agrees with the validation of the training that made it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tiny import tiny_config

from anyscene import evaluate as evaluation
from anyscene.cli import main
from anyscene.config import SampleConfig
from anyscene.errors import InputError
from anyscene.evaluate import Bench
from anyscene.held_out import Scenes, read_held_out
from anyscene.metrics.judge import Judge
from data_prep.demo_plan import TONES

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
    assert (record["samples"], record["step"]) == (2, 3)


def test_a_mistake_is_one_line(
    judged_run: Path, demo_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(judged_run, demo_shards, "--samples=1") == 2
    assert main(["evaluate", "nowhere", "--shards=x", "--judge=y", "--out=z"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_would_be_wrong_or_lost_in_the_end_is_told_at_first(
    judged_run: Path, demo_shards: Path, tiny_base_folder: Path, tmp_path: Path, capsys
) -> None:
    """A base's images are none of a FIM; and figures of an hour need a place."""
    places = ["evaluate", str(tiny_base_folder), f"--shards={demo_shards / 'val'}"]
    places += [f"--judge={JUDGE}", "--device=cpu"]
    assert main([*places, f"--out={tmp_path / 'x.json'}"]) == 2
    assert "the model has no Foreground Injection Module" in capsys.readouterr().err
    assert evaluate(judged_run, demo_shards, f"--out={tmp_path}") == 2
    assert f"--out {tmp_path} is a folder; give a file" in capsys.readouterr().err
    assert evaluate(judged_run, demo_shards, f"--out={tmp_path / 'new' / 'x.json'}") == 0
    assert (tmp_path / "new" / "x.json").is_file()


def test_scenes_of_several_sizes_are_refused(demo_shards: Path, monkeypatch) -> None:
    batches = [{"mask_uint8": torch.zeros(2, 1, 64, width)} for width in (64, 96)]
    monkeypatch.setattr("anyscene.held_out.read_batches", lambda *_: batches)
    with pytest.raises(InputError, match=r"several sizes \(64x64, 64x96\): prepare"):
        read_held_out(demo_shards / "val", 4, seed=0)


class TintsAsAsked(Bench):
    """A model that gives the real scene, tinted as the prompt says; it keeps what is judged."""

    truths: ClassVar[dict[int, Any]] = {}
    judged: ClassVar[dict[str, Scenes]] = {}

    def generate(self, scenes: Scenes, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = scenes.scene.clone()
        for image, prompt, seed in zip(images, scenes.prompts, scenes.seeds, strict=True):
            for tone, gains in TONES.items():
                if f"{tone} light" in prompt:
                    before = torch.tensor(TONES[self.truths[seed]["tone"]])
                    image *= (torch.tensor(gains) / before)[:, None, None]
        return images, images

    def row(self, name: str, images: torch.Tensor, scenes: Scenes) -> dict[str, Any]:
        self.judged[name] = scenes
        return super().row(name, images, scenes)


def test_controls_ask_for_what_they_judge_by(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that follows the prompt's tone has a response of 1, and truths follow the prompts."""
    scenes = read_held_out(demo_shards / "val", 4, seed=0)
    TintsAsAsked.truths = dict(zip(scenes.seeds, scenes.truths, strict=True))
    monkeypatch.setattr(evaluation, "Bench", TintsAsAsked)
    monkeypatch.setattr(evaluation, "_row_makers", lambda *_: {})  # they ask a pipeline
    pipeline: Any = SimpleNamespace(controlnet="a FIM")
    judge = Judge.from_pretrained(JUDGE)
    record = evaluation.evaluate(
        pipeline,
        judge,
        demo_shards / "val",
        tmp_path / "out.json",
        sample=SampleConfig(),
        samples=4,
        controls=True,
    )
    rows = {row["name"]: row["figures"] for row in record["controls"]}
    swapped = "warm and cool swapped in the prompt"
    assert rows[swapped]["tint_response"] == pytest.approx(1, abs=0.15)  # bright pixels clip
    assert rows[swapped]["tone_accuracy"] > 0.5
    for name, own in TintsAsAsked.judged.items():
        for prompt, truth in zip(own.prompts, own.truths, strict=True):
            assert truth is not None
            where = {"above": "above"}.get(truth["direction"], f"the {truth['direction']}")
            said = f"{truth['tone']} light from {where}" in prompt
            assert said == (name != "no light in the prompt"), (name, prompt)
