"""Running a method over a benchmark: resumed, divided, and one folder for one run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from anyscene.benchmark.methods.stable_diffusion import StableDiffusion
from anyscene.benchmark.run import Share, run
from anyscene.benchmark.runs import read_runs
from anyscene.benchmark.scenes import Benchmark, read_benchmark
from anyscene.cli import main
from anyscene.errors import DamageError, InputError
from anyscene.manifest import identity, read_generation_manifest
from anyscene.remake import remake
from anyscene.scene_list import GenerateSettings

SETTINGS = GenerateSettings(images=2, steps=2, guidance_scale=2.0, micro_batch=3, device="cpu")


def test_run_is_resumed_where_it_was_killed(
    demo_benchmark: Benchmark, tiny_base_folder: Path, tmp_path: Path, monkeypatch: Any
):
    out = tmp_path / "text"
    lines = run(demo_benchmark, "stable_diffusion", str(tiny_base_folder), out, SETTINGS)
    assert len(lines) == len({identity(line) for line in lines}) == 8
    assert [line["seed"] for line in lines] == [0, 4, 1, 5, 2, 6, 3, 7]
    manifest = out / "manifest.jsonl"
    text = manifest.read_bytes()
    manifest.write_bytes(text[: text.index(b"\n", 2000) - 9])  # a torn line and some missing
    images = []
    monkeypatch.setattr(
        StableDiffusion,
        "images",
        lambda self, jobs, whole=StableDiffusion.images: images.extend(jobs) or whole(self, jobs),
    )
    assert run(demo_benchmark, "stable_diffusion", str(tiny_base_folder), out, SETTINGS) == lines
    assert 0 < len(images) < 8
    images.clear()
    assert run(demo_benchmark, "stable_diffusion", str(tiny_base_folder), out, SETTINGS) == lines
    assert not images


def test_run_in_parts_gives_the_images_of_the_whole(
    demo_benchmark: Benchmark, tiny_base_folder: Path, tmp_path: Path
):
    model = str(tiny_base_folder)
    whole = run(demo_benchmark, "paste", model, tmp_path / "whole", SETTINGS)
    parts = tmp_path / "parts"
    run(demo_benchmark, "paste", model, parts, SETTINGS, share=Share(1, 2))
    assert not (parts / "manifest.jsonl").exists()
    with pytest.raises(InputError, match="is not finished"):
        read_runs(demo_benchmark, [(None, parts)])
    run(demo_benchmark, "paste", model, parts, SETTINGS, share=Share(0, 2))
    joined = read_generation_manifest(parts / "manifest.jsonl")
    assert [line["sha256"] for line in joined] == [line["sha256"] for line in whole]
    assert [line["scene_id"] for line in joined] == [line["scene_id"] for line in whole]
    (own,) = read_runs(demo_benchmark, [("pasted", parts)])
    assert own.name == "pasted"
    lower = [line | {"height": line["height"] // 2} for line in joined]
    (parts / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lower))
    with pytest.raises(InputError, match="they are not comparable"):
        read_runs(demo_benchmark, [("whole", tmp_path / "whole"), ("parts", parts)])
    assert own.repeats == 2


def test_images_of_anyscene_are_those_of_generate(
    demo_benchmark: Benchmark, tiny_export: Path, tmp_path: Path
):
    """Their manifest is one of `anyscene generate`, whose `--again` makes them bit for bit."""
    out = tmp_path / "ours"
    settings = GenerateSettings(steps=2, guidance_scale=2.0, micro_batch=4, device="cpu")
    run(demo_benchmark, "anyscene", str(tiny_export), out, settings)
    assert [result.equal for result in remake(out / "manifest.jsonl")] == [True] * 4


def test_folder_holds_one_run(demo_benchmark: Benchmark, tiny_base_folder: Path, tmp_path: Path):
    model, out = str(tiny_base_folder), tmp_path / "out"
    settings = GenerateSettings(steps=1, device="cpu")
    run(demo_benchmark, "paste", model, out, settings)
    with pytest.raises(InputError, match=r"another run \(method is paste there"):
        run(demo_benchmark, "stable_diffusion", model, out, settings)
    other = tmp_path / "other"
    run(demo_benchmark, "paste", model, other, GenerateSettings(steps=2, device="cpu"))
    with pytest.raises(InputError, match="two runs are called paste"):
        read_runs(demo_benchmark, [(None, out), (None, out)])
    with pytest.raises(InputError, match=r"steps=2 .* not comparable"):
        read_runs(demo_benchmark, [(None, out), ("longer", other)])
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text("{")
    with pytest.raises(DamageError, match=r"run\.json is damaged; remove"):
        run(demo_benchmark, "paste", model, out, settings)
    (out / "run.json").write_text(json.dumps(record | {"benchmark_sha256": "0"}))
    with pytest.raises(InputError, match="of another benchmark"):
        read_runs(demo_benchmark, [(None, out)])


def test_the_last_scenes_canvas_is_looked_at_before_the_first_image(
    demo_benchmark: Benchmark, tiny_base_folder: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(demo_benchmark.folder, tmp_path / "benchmark"))
    last = demo_benchmark.scenes[-1]
    (folder / str(last["canvas"])).write_bytes(b"no picture")
    settings, out = GenerateSettings(steps=1, device="cpu"), tmp_path / "out"
    with pytest.raises(InputError, match=f"^scene {last['scene_id']}: .* cannot be read as an"):
        run(read_benchmark(folder), "paste", str(tiny_base_folder), out, settings)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "anyscen"], "did you mean 'anyscene'?"),
        (["--method", "controlnet_canny"], "needs --controlnet"),
        (["--method", "paste", "--steps", "0"], "--steps 0 must be greater than 0"),
        (["--method", "paste", "--shard-index", "2"], "the index must be from 0"),
        (["--method", "anyscene"], "no Foreground Injection Module"),
        (["--method", "paste", "--controlnet", "x"], "is for --method controlnet_canny, not"),
        (["--method", "paste", "--sam", "x"], "--sam is for --method inpaint_anything, not"),
        (["--method", "paste", "--blend", "alpha"], "--blend is for --method anyscene, not"),
        (["--method", "paste", "--blend-k", "0.5"], "--blend-k is for --method anyscene, not"),
    ],
)
def test_run_tells_a_mistake_in_one_line(
    arguments: list[str],
    message: str,
    demo_benchmark: Benchmark,
    tiny_base_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    line = ["benchmark", "run", str(demo_benchmark.folder), "--model", str(tiny_base_folder)]
    assert main([*line, "--out", str(tmp_path / "out"), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
