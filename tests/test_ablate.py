"""`anyscene benchmark ablate`: its arms, its paired intervals, its table, and the command."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from anyscene.benchmark import ablate as ablation
from anyscene.benchmark.ablate import ALL, NONE, REAL, Measure, _row, arms, table
from anyscene.cli import main
from anyscene.config import SampleConfig
from anyscene.held_out import Scenes
from anyscene.layout_settings import LayoutControl
from anyscene.pipeline import AnySceneOutput

JUDGE = Path(__file__).parents[1] / "anyscene" / "assets" / "demo_judge"


def test_arms_are_none_each_alone_and_all():
    on = LayoutControl(attention=4, known_latent=1, known_latent_end=0.5)
    compared = arms(on)
    assert list(compared) == [NONE, "attention", "known_latent", ALL]
    assert [layout.active() for layout in compared.values()] == [
        [],
        ["attention"],
        ["known_latent"],
        ["attention", "known_latent"],
    ]
    assert compared["known_latent"].known_latent_end == 0.5
    assert list(arms(LayoutControl(attention=2))) == [NONE, "attention"]


def test_changes_are_paired_by_scene():
    """A change that every scene shares has a narrow interval, however different the scenes are."""
    before = {"mask_iou": [0.1, 0.5, 0.9, 0.3], "growth": [0.1, float("nan"), 0.2, 0.3]}
    steps = (1, 1, -1, 0)
    after = {
        "mask_iou": [value + 0.05 for value in before["mask_iou"]],
        "growth": [value + step for value, step in zip(before["growth"], steps, strict=True)],
    }
    row = _row("attention", after, before)
    assert row["figures"]["mask_iou"] == pytest.approx(0.5)
    low, high = row["intervals"]["mask_iou"]
    assert high - low > 0.3
    assert row["change_intervals"]["mask_iou"] == pytest.approx([0.05, 0.05])
    assert row["changes"]["growth"] == pytest.approx(0)
    text = table(
        {"rows": [row], "scenes": 4, "seeds": [0], "steps": 2, "guidance_scale": 2.0, "level": 0.95}
    )
    assert "**+0.050** (+0.050 to +0.050)" in text
    assert "| +0.0 (" in text  # holds 0: not bold


def test_measure_prompts_the_segmenter_with_the_mask():
    alpha = torch.zeros(2, 1, 64, 64)
    alpha[..., 10:30, 10:30] = 1
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scenes = Scenes(image, alpha, ["a", "b"], [None, None], [0, 1], image)
    values = Measure(lambda _image, mask: mask)(image, scenes)
    assert values["mask_iou"] == values["boundary_f"] == [1.0, 1.0]
    assert values["growth"] == values["lost"] == values["colour_shift"] == [0.0, 0.0]
    assert "shadow_correlation" not in values


def test_every_arm_has_the_same_seeds_and_its_values_are_their_means(tmp_path: Path, monkeypatch):
    alpha = torch.ones(2, 1, 64, 64)
    image = torch.zeros(2, 3, 64, 64)
    scenes = Scenes(image, alpha, ["a", "b"], [None, None], [10, 20], image)
    asked: list[tuple[bool, list[int]]] = []

    def sampled(_pipeline, _prompts, seeds, *_, layout, **_options):
        asked.append((bool(layout.active()), seeds))
        shown = torch.tensor(seeds, dtype=torch.float32)[:, None, None, None]
        return AnySceneOutput(images=shown, raw_images=shown + 100 * bool(layout.active()))

    def measured(images, _scenes):
        return {"mask_iou": images.flatten().tolist()}

    monkeypatch.setattr(ablation, "sample_scenes", sampled)
    model: Any = SimpleNamespace(
        pipeline=None, device="cpu", path="m", sha256="0", device_name=lambda: "cpu"
    )
    on, sample = LayoutControl(attention=1), SampleConfig()
    options: Any = {"sample": sample, "on": on, "seeds": (0, 4)}
    record = ablation.ablate(model, scenes, measured, tmp_path, **options)  # pyright: ignore
    assert asked == [(on, [10 + seed, 20 + seed]) for seed in (0, 4) for on in (False, True)]
    plain, attention = record["rows"]
    assert plain["figures"] == {"mask_iou": 17.0}  # of 12 and 22
    assert attention["figures"] == {"mask_iou": 117.0}
    assert attention["changes"] == {"mask_iou": 100.0}


def run(*arguments: Any) -> int:
    return main(["benchmark", "ablate", *map(str, arguments), "--steps", "3", "--device", "cpu"])


def test_ablate_of_shards(tiny_export: Path, demo_shards: Path, tmp_path: Path):
    data = ["--shards", demo_shards / "val", "--judge", JUDGE, "--samples", 2, "--seeds", 0, 5]
    layout = ["--layout", "attention=4", "residual_gate=1"]
    assert run(tiny_export, *data, *layout, "--out", tmp_path) == 0
    record = json.loads((tmp_path / "ablation.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert list(rows) == [REAL, NONE, "attention", "residual_gate", ALL]
    assert (record["scenes"], record["seeds"], record["steps"]) == (2, [0, 5], 3)
    assert not {"psnr_in_mask", "colour_shift"} & rows[REAL]["figures"].keys()
    assert "mask_iou" in rows[REAL]["figures"]
    assert rows[NONE]["layout"] is None
    assert rows[ALL]["layout"]["attention"] == 4.0
    assert "shadow_correlation" in rows[NONE]["figures"]
    assert rows[ALL]["changes"]["psnr_in_mask"] == pytest.approx(
        rows[ALL]["figures"]["psnr_in_mask"] - rows[NONE]["figures"]["psnr_in_mask"]
    )
    text = (tmp_path / "ablation.md").read_text()
    assert text.count("| residual_gate |") == 2
    assert "2 scenes, seeds 0, 5, 3 steps" in text


def test_ablate_of_a_scene_list(tiny_export: Path, tmp_path: Path):
    canvas = Image.new("RGBA", (64, 64))
    canvas.paste((200, 30, 30, 255), (16, 16, 40, 40))
    canvas.save(tmp_path / "canvas.png")
    scenes = tmp_path / "scenes.yaml"
    scenes.write_text("- {prompts: [a mug, a dog], canvas: canvas.png}\n")
    out = tmp_path / "out"
    layout = ["--layout", "known_latent=1"]
    assert run(tiny_export, "--scenes", scenes, "--judge", JUDGE, "--out", out, *layout) == 0
    record = json.loads((out / "ablation.json").read_text())
    assert [row["name"] for row in record["rows"]] == [NONE, "known_latent"]
    assert record["scenes"] == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--judge", JUDGE], "needs either --shards or --scenes"),
        (["--shards", "x"], "needs either --judge or --sam"),
        (["--shards", "x", "--judge", JUDGE, "--seeds", 1, 1], "--seeds 1 1 must differ"),
        (["--shards", "x", "--judge", JUDGE, "--samples", 1], "--samples=1 is too small"),
        (["--shards", "x", "--judge", JUDGE, "--layout", "atention=1"], "did you mean 'attention'"),
    ],
)
def test_ablate_names_mistakes(
    arguments: list[Any],
    line: str,
    tiny_base_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    assert run(tiny_base_folder, *arguments, "--out", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
