"""`anyscene generate`: images, their manifest, going on after a crash, and making them again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image
from tiny import tiny_base
from torch import Tensor

from anyscene.cli import main
from anyscene.compositing.blending import eroded_mask
from anyscene.compositing.compose import read_canvas
from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of
from anyscene.generate import generate
from anyscene.layout_settings import LayoutControl
from anyscene.manifest import GenerationLine, read_generation_manifest, read_lines
from anyscene.pipeline import AnyScenePipeline
from anyscene.remake import remake
from anyscene.scene_list import GenerateSettings, Scene, read_scene_list

REPOSITORY = Path(__file__).resolve().parents[1]
COCO = REPOSITORY.parent / "shared" / "data" / "coco_mini"
SIZE = 64
LAYOUT = ("attention=3", "residual_gate=0.5", "known_latent=1", "known_latent_end=0.4")
PROMPTS = ("a red mug on a meadow", "warm light from the left", "cool light from the right")


def write_canvas(path: Path, size: tuple[int, int] = (SIZE, SIZE), seed: int = 0) -> Path:
    """An RGBA file of (height, width) with a noisy square element."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4, 3] = 255
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.fixture
def canvas(tmp_path: Path) -> Path:
    return write_canvas(tmp_path / "dog.png")


def test_lines_say_what_was_made(tiny_export: Path, canvas: Path, tmp_path: Path):
    out = tmp_path / "out"
    scene = Scene("dog", PROMPTS[:2], canvas, seed=7)
    lines = generate(str(tiny_export), [scene], GenerateSettings(images=2), out)
    assert lines == read_generation_manifest(out / "manifest.jsonl")
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        (prompt, seed) for prompt in PROMPTS[:2] for seed in (7, 8)
    ]
    assert len({line["sha256_raw"] for line in lines}) == 4
    for line in lines:
        assert [*line] == [*GenerationLine.__annotations__]
        assert line["sha256"] == sha256_of(out / line["image"])
        assert line["sha256_raw"] == sha256_of(out / line["image_raw"]) != line["sha256"]
        assert line["canvas"] is not None
        assert line["canvas_sha256"] == sha256_of(out / line["canvas"])
        assert line["mask"] is not None
        assert np.array_equal(pixels_of(out / line["mask"]), pixels_of(canvas)[..., 3])
        assert np.array_equal(pixels_of(out / line["canvas"]), pixels_of(canvas))
        assert pixels_of(out / line["image"]).shape == (SIZE, SIZE, 3)
        assert (out / line["model"]).resolve() == tiny_export.resolve()
    assert not list(out.rglob("*.part"))


def test_defaults_come_from_the_export_and_are_overridden(
    tiny_export: Path, tiny_base_folder: Path, canvas: Path, tmp_path: Path
):
    def first_line(model: Path, scene: Scene, **settings: Any) -> GenerationLine:
        return generate(str(model), [scene], GenerateSettings(**settings), tmp_path / "out")[0]

    guided, text = Scene("dog", PROMPTS[:1], canvas), Scene("text", PROMPTS[:1])
    line = first_line(tiny_export, guided)
    assert (line["steps"], line["guidance_scale"], line["micro_batch"]) == (3, 2.0, 1)
    assert (line["blend"], line["layout"]) == ({"mode": "detail", "k": 0.25}, None)
    assert (line["method"], line["scheduler"]) == ("anyscene", "DDIMScheduler")
    line = first_line(tiny_export, guided, steps=2, guidance_scale=1.0, blend_k=0.5, micro_batch=3)
    assert (line["steps"], line["guidance_scale"], line["micro_batch"]) == (2, 1.0, 3)
    assert line["blend"] == {"mode": "detail", "k": 0.5}
    line = first_line(tiny_base_folder, text)
    assert (line["steps"], line["guidance_scale"], line["method"]) == (50, 7.5, "text")
    assert [line[key] for key in ("canvas", "mask", "blend", "layout")] == [None] * 4
    assert line["sha256"] == line["sha256_raw"]
    with pytest.raises(InputError, match="no Foreground Injection Module"):
        first_line(tiny_base_folder, guided)
    known = {"known_latent": 1.0, "known_latent_start": 0.0, "known_latent_end": 0.5}
    words = ("known_latent=1", "known_latent_end=0.5")
    line = first_line(tiny_base_folder, guided, layout=words, steps=2)
    assert (line["method"], line["layout"]) == ("known_latent", known)


def test_elements_are_composed(tiny_export: Path, canvas: Path, tmp_path: Path):
    out = tmp_path / "out"
    arguments = ["generate", str(tiny_export), "--prompt", PROMPTS[0], "--out", str(out)]
    arguments += ["--element", f"{canvas}@0.25,0.5,0.5", "--element", f"{canvas}@0.75,0.5,0.5"]
    assert main([*arguments, "--blend", "none", "--width", "96", "--height", "64"]) == 0
    (line,) = read_generation_manifest(out / "manifest.jsonl")
    assert (line["height"], line["width"], line["blend"]) == (64, 96, None)
    assert line["mask"] is not None
    mask = pixels_of(out / line["mask"]) > 127
    assert mask.shape == (64, 96)
    assert mask[32, 24]
    assert mask[32, 72]
    assert not mask[32, 48]
    assert pixels_of(out / line["image"]).shape == (64, 96, 3)


def test_size_follows_the_shape_of_the_canvas(tiny_export: Path, tmp_path: Path):
    wide = write_canvas(tmp_path / "wide.png", (200, 300))
    line = generate(
        str(tiny_export), [Scene("wide", PROMPTS[:1], wide)], GenerateSettings(), tmp_path / "out"
    )[0]
    assert (line["height"], line["width"]) == (48, 72)  # nearest to 64 x 64 in area
    odd = write_canvas(tmp_path / "odd.png", (100, 103))
    with pytest.raises(InputError, match="pad it with transparent pixels"):
        generate(str(tiny_export), [Scene("odd", PROMPTS[:1], odd)], GenerateSettings(), tmp_path)


def test_an_image_does_not_depend_on_its_company(tiny_export: Path, canvas: Path, tmp_path: Path):
    """Alone, among others, and at another place in the micro-batch."""
    settings = GenerateSettings(micro_batch=3)

    def made(name: str, *prompts: str) -> dict[str, GenerationLine]:
        scene = Scene("dog", prompts, canvas)
        lines = generate(str(tiny_export), [scene], settings, tmp_path / name)
        return {line["prompt"]: line for line in lines}

    alone = made("alone", PROMPTS[2])
    among = made("among", *PROMPTS, "a fourth one")
    assert among[PROMPTS[2]] == alone[PROMPTS[2]]


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


def test_goes_on_after_a_crash(tiny_export: Path, canvas: Path, tmp_path: Path):
    """Killed while the last line was written: all others stay untouched."""
    out = tmp_path / "out"
    scenes = [Scene("dog", PROMPTS, canvas)]
    settings = GenerateSettings(micro_batch=2)
    lines = generate(str(tiny_export), scenes, settings, out)
    manifest = out / "manifest.jsonl"
    data = manifest.read_bytes()
    manifest.write_bytes(data[:-40])
    (out / lines[1]["image_raw"]).unlink()  # and one was lost
    for path in out.rglob("*.png"):
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert generate(str(tiny_export), scenes, settings, out) == lines
    made = {path for path in out.rglob("*.png") if before.get(path) != path.stat().st_mtime_ns}
    again = {out / line[key] for line in lines[1:] for key in ("image", "image_raw")}
    assert made & {out / lines[0]["image"], out / lines[0]["image_raw"]} == set()
    assert again <= made
    assert manifest.read_bytes().startswith(data[: data.rindex(b"\n", 0, -1) + 1])
    assert len(read_generation_manifest(manifest)) == 4


def test_other_settings_do_not_overwrite(tiny_export: Path, canvas: Path, tmp_path: Path):
    out = tmp_path / "out"
    scene = Scene("dog", PROMPTS[:1], canvas)
    (first,) = generate(str(tiny_export), [scene], GenerateSettings(), out)
    write_canvas(canvas, seed=1)
    (second,) = generate(str(tiny_export), [scene], GenerateSettings(steps=2), out)
    assert first["image"] != second["image"]
    assert first["canvas"] != second["canvas"]
    assert all(result.equal for result in remake(out / "manifest.jsonl"))


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
        ("prompt: x", "must be a list"),
        ("[", "is not YAML"),
    ],
)
def test_bad_scene_lists(tmp_path: Path, text: str, message: str):
    path = tmp_path / "scenes.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_scene_list(path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_real_photo_comes_back_under_its_mask(tiny_export: Path, tmp_path: Path, dtype: str):
    """A cut-out of a COCO photo, blended with all of its own light."""
    if not COCO.is_dir():
        pytest.skip(f"{COCO} is not here")
    canvas = cut_out(tmp_path / "photo.png", size=256)
    settings = GenerateSettings(height=256, width=256, blend_k=1.0, dtype=dtype)
    out = tmp_path / "out"
    (line,) = generate(str(tiny_export), [Scene("photo", PROMPTS[:1], canvas)], settings, out)
    assert line["blend"] == {"mode": "detail", "k": 1.0}
    _, alpha = read_canvas(canvas, (256, 256))
    core = eroded_mask(alpha, 2)[0, 0].numpy()
    assert core.mean() > 0.05
    photo, image, raw = (
        pixels_of(path)[..., :3] for path in (canvas, out / line["image"], out / line["image_raw"])
    )
    assert np.array_equal(image[core], photo[core])
    assert not np.array_equal(raw[core], photo[core])
    outside = (alpha == 0)[0, 0].numpy()
    assert np.array_equal(image[outside], raw[outside])


def cut_out(path: Path, size: int) -> Path:
    """The largest instance of a photo on a transparent canvas of `size` x `size`."""
    from pycocotools.coco import COCO as Coco

    coco = Coco(str(COCO / "instances.json"))
    annotations = coco.loadAnns(coco.getAnnIds(iscrowd=False))
    fitting = [own for own in annotations if max(own["bbox"][2:]) < size]
    annotation = max(fitting, key=lambda own: own["area"])
    record = coco.loadImgs(annotation["image_id"])[0]
    left, top, width, height = (int(value) for value in annotation["bbox"])
    with Image.open(COCO / "images" / record["file_name"]) as file:
        photo = file.convert("RGBA")
    photo.putalpha(Image.fromarray(coco.annToMask(annotation) * 255))
    left, top = left - (size - width) // 2, top - (size - height) // 2
    photo.crop((left, top, left + size, top + size)).save(path)
    return path


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@torch.no_grad()
def test_known_latents_are_noised_as_the_scheduler_does(tmp_path: Path, scheduler: Any):
    """With a UNet that sees no noise, what is known at the last step comes out."""
    pipeline = AnyScenePipeline.from_pretrained(
        tiny_base(tmp_path / "base", prediction_type="epsilon")
    )
    pipeline.set_progress_bar_config(disable=True)
    for parameter in pipeline.unet.conv_out.parameters():
        parameter.zero_()
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    foreground = torch.full((1, 3, SIZE, SIZE), 0.8)

    def latents(known: float, seed: int) -> Tensor:
        seen: list[Tensor] = []
        pipeline(
            "a mug",
            foreground,
            torch.ones(1, 1, SIZE, SIZE),
            num_inference_steps=100,
            layout=LayoutControl(known_latent=known, known_latent_end=1.0),
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=lambda _p, _i, _t, values: seen.append(values["latents"]) or {},
        )
        return seen[-1]

    same = latents(1.0, seed=0) - latents(1.0, seed=1)  # the noise that is left
    free = latents(0.0, seed=0) - latents(0.0, seed=1)
    assert same.std() < 0.1
    assert free.std() > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "generate needs --out DIR"),
        (["--out", "OUT", "--prompt", "x"], "generate needs a MODEL"),
        (["no/model/here", "--prompt", "x"], "no model folder no/model/here"),
        (["."], "neither anyscene.json nor model_index.json"),
        (["MODEL"], "has no prompt"),
        (["MODEL", "--prompt", "x", "--canvas", "gone.png"], "no file gone.png"),
        (["MODEL", "--prompt", "x", "--element", "gone.png@1,1,1"], "no file gone.png"),
        (["MODEL", "--prompt", "x", "--canvas", "C", "--element", "C@1,1,1"], "give one of them"),
        (["MODEL", "--prompt", "x", "--scenes", "s.jsonl"], "--scenes cannot go with --prompt"),
        (["MODEL", "--scenes", "s.jsonl"], "no scene list s.jsonl"),
        (["MODEL", "--prompt", "x", "--steps", "0"], "--steps 0 must be greater than 0"),
        (["MODEL", "--prompt", "x", "--images", "-1"], "--images -1 must be greater than 0"),
        (["MODEL", "--prompt", "x", "--blend-k", "2"], "--blend-k 2 must be between 0 and 1"),
        (
            ["MODEL", "--prompt", "x", "--layout", "attention=-1"],
            "attention=-1 must be between 0 (off)",
        ),
        (["MODEL", "--prompt", "x", "--layout", "atention=1"], "did you mean 'attention'"),
        (["MODEL", "--prompt", "x", "--guidance-scale", "nan"], "--guidance-scale nan must not"),
        (["MODEL", "--prompt", "x", "--seed", "-1"], "seed=-1 of scene text must be at least 0"),
        (["MODEL", "--prompt", "x", "--micro-batch", "0"], "--micro-batch 0 must be greater"),
        (["--again", "gone.jsonl"], "no manifest gone.jsonl"),
        (["MODEL", "--prompt", "x", "--canvas", "OPAQUE"], "has no alpha channel"),
        (["MODEL", "--prompt", "x", "--canvas", "TEXT"], "cannot be read as an image"),
        (["MODEL", "--prompt", "x", "--element", "C@1,1"], "must be FILE@X,Y,HEIGHT"),
        (["MODEL", "--prompt", "x", "--height", "60"], "must be multiples of 8"),
    ],
)
def test_mistakes_take_one_line(
    arguments: list[str],
    message: str,
    tiny_export: Path,
    canvas: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    opaque = tmp_path / "opaque.png"
    Image.new("RGB", (SIZE, SIZE)).save(opaque)
    names = {"MODEL": tiny_export, "C": canvas, "C@1,1,1": f"{canvas}@1,1,1", "OPAQUE": opaque}
    names |= {"C@1,1": f"{canvas}@1,1", "OUT": tmp_path / "out", "TEXT": tmp_path / "text.png"}
    names["TEXT"].write_text("no picture")
    line = [str(names.get(argument, argument)) for argument in arguments]
    if message != "generate needs --out DIR" and "--again" not in line:
        line += ["--out", str(tmp_path / "out")]
    assert main(["generate", *line]) == 2
    told = capsys.readouterr().err
    assert told.startswith("anyscene: ")
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.rglob("manifest.jsonl"))


def test_mistakes_are_told_before_torch_is_imported(tmp_path: Path):
    code = (
        "import sys\nfrom anyscene.cli import main\n"
        "print(main(sys.argv[1:]), 'torch' in sys.modules)"
    )
    (tmp_path / "model_index.json").touch()
    model = ["generate", str(tmp_path), "--prompt", "x", "--out", str(tmp_path / "out")]
    for arguments in ([*model, "--steps", "0"], ["export", str(tmp_path), "--out", str(tmp_path)]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
        assert done.stdout == "2 False\n"


def test_a_model_that_does_not_load(tiny_export: Path, tmp_path: Path):
    broken = Path(shutil.copytree(tiny_export, tmp_path / "broken"))
    (broken / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match="could not be loaded"):
        generate(str(broken), [Scene("text", PROMPTS)], GenerateSettings(), tmp_path / "out")
