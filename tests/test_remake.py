"""Images of `anyscene generate` made again from their manifest, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
from canvases import PROMPTS, write_canvas

from anyscene.cli import main
from anyscene.errors import DamageError, InputError
from anyscene.generate import generate
from anyscene.manifest import read_lines
from anyscene.remake import remake
from anyscene.scene_list import GenerateSettings, Scene

LAYOUT = ("attention=3", "residual_gate=0.5", "known_latent=1", "known_latent_end=0.4")


def test_made_again_bit_for_bit(tiny_export: Path, canvas: Path, tmp_path: Path):
    """All images, and one line alone that was made among others."""
    out = tmp_path / "out"
    scenes = [Scene("dog", PROMPTS, canvas), Scene("text", PROMPTS[:2])]
    settings = GenerateSettings(micro_batch=2, layout=LAYOUT, foreground_guidance_scale=1.5)
    generate(str(tiny_export), scenes, settings, out)
    results = remake(out / "manifest.jsonl", tmp_path / "again")
    assert [result.equal for result in results] == [True] * 5
    for result in results:
        again, first = (folder / result.image for folder in (tmp_path / "again", out))
        assert again.read_bytes() == first.read_bytes()
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "one.jsonl").write_text(lines[1])
    assert [result.equal for result in remake(out / "one.jsonl")] == [True]


def test_made_again_from_the_command_line(
    tiny_export: Path, canvas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "out"
    scene = Scene("dog", PROMPTS[:2], canvas)
    generate(str(tiny_export), [scene], GenerateSettings(), out)
    manifest = out / "manifest.jsonl"
    assert main(["generate", "--again", str(manifest)]) == 0
    assert "2 of 2 images are equal" in capsys.readouterr().out
    first, second = read_lines(manifest)
    first["seed"] += 1
    first["versions"]["torch"] = "1.0"
    manifest.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    assert main(["generate", "--again", str(manifest)]) == 1
    told = capsys.readouterr().out
    assert f"{first['image']}: NOT equal (versions was" in told
    assert "1 of 2 images are equal" in told


def test_images_are_counted_once_and_not_written_over(
    tiny_export: Path, canvas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One that was lost and made anew has two lines. In their own folder images of another machine
    would not be those of the manifest any more."""
    out, scenes = tmp_path / "out", [Scene("dog", PROMPTS[:2], canvas)]
    first, _ = generate(str(tiny_export), scenes, GenerateSettings(steps=1), out)
    (out / first["image"]).unlink()
    generate(str(tiny_export), scenes, GenerateSettings(steps=1), out)
    manifest = out / "manifest.jsonl"
    assert len(read_lines(manifest)) == 3
    assert main(["generate", "--again", str(manifest), "--device", "cpu"]) == 0
    assert "2 of 2 images are equal" in capsys.readouterr().out
    assert main(["generate", "--again", str(manifest), "--out", f"{out}/../out"]) == 2
    assert f"holds the images of {manifest}: choose another folder" in capsys.readouterr().err


def test_made_again_on_another_device_where_that_is_asked(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (line,) = generate(
        str(tiny_export), [Scene("text", PROMPTS[:1])], GenerateSettings(steps=1), tmp_path
    )
    manifest = tmp_path / "gpu.jsonl"
    manifest.write_text(json.dumps({**line, "device": "cuda NVIDIA H100", "sha256": ""}) + "\n")
    assert main(["generate", "--again", str(manifest), "--device", "cpu"]) == 1
    assert "NOT equal (device was cuda NVIDIA H100, is cpu" in capsys.readouterr().out


def test_a_scheduler_with_other_settings_is_another_model(tiny_export: Path, tmp_path: Path):
    """As where its steps are spaced otherwise: a resume must not keep the images."""
    model = Path(shutil.copytree(tiny_export, tmp_path / "model"))
    made = [str(model), [Scene("text", PROMPTS[:1])], GenerateSettings(steps=2), tmp_path / "out"]
    (first,) = generate(*made)
    path = model / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    spacing = "trailing" if settings["timestep_spacing"] == "leading" else "leading"
    path.write_text(json.dumps(settings | {"timestep_spacing": spacing}))
    (second,) = generate(*made)
    assert first["image"] != second["image"]
    assert first["sha256"] != second["sha256"]
    with pytest.raises(InputError, match="was made by a model with sha256"):
        remake(tmp_path / "out" / "manifest.jsonl")


def test_making_again_refuses_another_model_and_a_changed_canvas(
    tiny_export: Path, tiny_base_folder: Path, canvas: Path, tmp_path: Path
):
    out = tmp_path / "out"
    (line,) = generate(
        str(tiny_export), [Scene("dog", PROMPTS[:1], canvas)], GenerateSettings(), out
    )
    with pytest.raises(InputError, match="was made by a model with sha256"):
        remake(out / "manifest.jsonl", model=str(tiny_base_folder))
    assert line["canvas"] is not None
    shutil.copytree(out, tmp_path / "elsewhere" / "out")
    with pytest.raises(InputError, match="name the MODEL that made"):
        remake(tmp_path / "elsewhere" / "out" / "manifest.jsonl")
    write_canvas(out / line["canvas"], seed=1)
    with pytest.raises(DamageError, match="does not have the sha256"):
        remake(out / "manifest.jsonl")
    (out / line["canvas"]).unlink()
    with pytest.raises(InputError, match="is missing"):
        remake(out / "manifest.jsonl")
