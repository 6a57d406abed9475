"""Scene lists of `anyscene generate`: what they make, and what is wrong with them."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from canvases import PROMPTS

from anyscene.cli import build_parser, main
from anyscene.errors import InputError
from anyscene.manifest import read_generation_manifest
from anyscene.scene_list import (
    GenerateSettings,
    Scene,
    check_request,
    check_settings,
    read_scene_list,
    request,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".yaml"])
def test_scene_list(tiny_export: Path, canvas: Path, tmp_path: Path, suffix: str):
    entries = [
        {"scene_id": "a", "prompts": [*PROMPTS[:2]], "canvas": canvas.name, "seed": 3},
        {"prompt": PROMPTS[2], "elements": [f"{canvas.name}@0.5,0.5,0.5"]},
        {"prompt": PROMPTS[0]},
    ]
    path = tmp_path / f"scenes{suffix}"
    lines = (json.dumps(entry) + "\n" for entry in entries)
    path.write_text("".join(lines) if suffix == ".jsonl" else json.dumps(entries))
    out = tmp_path / "out"
    arguments = ["generate", str(tiny_export), "--scenes", str(path), "--out", str(out)]
    assert main([*arguments, "--seed", "5"]) == 0
    made = {
        (line["scene_id"], line["prompt"], line["seed"], line["method"])
        for line in read_generation_manifest(out / "manifest.jsonl")
    }
    assert made == {
        ("a", PROMPTS[0], 3, "anyscene"),
        ("a", PROMPTS[1], 3, "anyscene"),
        ("scene0002", PROMPTS[2], 5, "anyscene"),
        ("scene0003", PROMPTS[0], 5, "text"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"promt": "x"}]', "entry 1 .* unknown key 'promt'; did you mean 'prompt'"),
        ('[{"prompt": 3}]', "entry 1 .*: prompt must be a text"),
        ('[{"prompt": "x", "seed": "y"}]', "entry 1 .*: seed must be a whole number"),
        ('[{"scene_id": "a", "prompt": "x"}, {"scene_id": "a", "prompt": "y"}]', "'a' twice"),
        ('["x"]', "entry 1 .* must have keys"),
        ("- {prompt: x, elements: [a.png@0.1,0.2,0.3]}", r'in YAML quoted: \["dog.png@0.6'),
        ("prompt: x", "must be a list"),
        ("[", "is not YAML"),
        ("- prompt: 2024-13-45", "is not YAML: month must be in 1..12"),
        ("- {prompt: x, seed: yes}", "seed must be a whole number"),
        ("- {prompt: x, scene_id: [a]}", r"scene_id must be a text, not \["),
        ("- prompt: x\n  prompt: y", "line 2 of .* has 'prompt' a second time"),
    ],
)
def test_bad_scene_lists(tmp_path: Path, text: str, message: str):
    assert re.search(message, refusal(tmp_path / "scenes.yaml", text))


def refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_scene_list(path)
    return str(caught.value)


def test_a_scene_list_in_another_encoding_is_refused(tmp_path: Path):
    path = tmp_path / "scenes.yaml"
    path.write_bytes("- prompt: café".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not YAML: unacceptable character .* position 13"):
        read_scene_list(path)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_mistake_in_the_last_json_line_is_not_left_out(tmp_path: Path, end: str):
    """Of a manifest it is: a torn line there was written by a process that died."""
    path = tmp_path / "scenes.jsonl"
    path.write_text('{"prompt": "x"}\n\n{"prompt": "y" "seed": 3}' + end)
    with pytest.raises(InputError, match=r"line 3 of .* is no JSON: Expecting ',' delimiter"):
        read_scene_list(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('{"prompt": "x", "seed": true}', "seed must be a whole number"),
        ('{"prompt": "x", "scene_id": null}', "scene_id must be a text, not null"),
        ('["x"]', "entry 1 .* must have keys"),
    ],
)
def test_bad_json_lines(tmp_path: Path, entry: str, message: str):
    assert re.search(message, refusal(tmp_path / "scenes.jsonl", entry))


@pytest.mark.parametrize("written", ["010", "1.10", "1e3", "no", "null", "2024-01-02", "0x1f", "7"])
def test_a_scene_id_is_what_is_written(tmp_path: Path, written: str):
    """YAML takes 010 for 8, 1.10 for 1.1 and no for false."""
    path = tmp_path / "scenes.yaml"
    path.write_text(f"- {{scene_id: {written}, prompt: x}}\n- prompt: y\n")
    assert [scene.scene_id for scene in read_scene_list(path)] == [written, "scene0002"]


def test_a_seed_is_decimal(tmp_path: Path):
    path = tmp_path / "scenes.yaml"
    path.write_text("- {seed: 010, prompt: x}\n- {seed: 12, prompt: y}\n")
    assert [scene.seed for scene in read_scene_list(path)] == [10, 12]


def test_a_prompt_that_is_not_read_to_its_end(
    tiny_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "scenes.jsonl"
    long = " ".join(["mug"] * 31)  # 30 words and two ends are read
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in (long, long[4:])))
    arguments = ["generate", str(tiny_export), "--scenes", str(path), "--steps", "1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().err
    assert told.count("tokens are not read") == 1
    assert "WARNING: 1 of 33 tokens are not read, the last ones of the prompt 'mug mug" in told


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_both_endings_of_a_yaml_list_and_both_keys_of_prompts(suffix: str, tmp_path: Path):
    listed = tmp_path / f"scenes{suffix}"
    listed.write_text("- {prompt: one, prompts: [two, three]}\n")
    assert read_scene_list(listed)[0].prompts == ("one", "two", "three")


def test_a_canvas_may_be_called_anything(tmp_path: Path):
    """Its name becomes the scene's, which names files."""
    path = tmp_path / " my dog (1).png"
    path.touch()
    words = ["generate", "a/b", "--out", "out", "--prompt", "x", "--canvas", str(path)]
    model, scenes, settings, _ = request(build_parser().parse_args(words))
    assert scenes[0].scene_id == "_my_dog__1_"
    check_request(model, scenes, replace(settings, blend_k=1.0))


def test_numbers_that_no_generator_or_guidance_takes():
    scene = Scene("a", ("x",), seed=2**62)
    with pytest.raises(InputError, match=r"less than 2\^62"):
        check_request("a/b", [scene], GenerateSettings())
    for name in ("guidance_scale", "foreground_guidance_scale"):
        with pytest.raises(InputError, match="inf must be a finite number"):
            check_settings(GenerateSettings(**{name: math.inf}))
