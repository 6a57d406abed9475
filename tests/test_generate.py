"""`anyscene generate`: images, their manifest, and going on after a crash."""

import errno
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canvases import PROMPTS, SIZE, pixels_of, write_canvas
from PIL import Image

from anyscene.cli import main
from anyscene.compositing.blending import eroded_mask
from anyscene.compositing.compose import read_canvas
from anyscene.errors import InputError
from anyscene.files import sha256_of, sole_use
from anyscene.generate import LOCK, generate
from anyscene.manifest import GenerationLine, read_generation_manifest
from anyscene.remake import remake
from anyscene.scene_list import GenerateSettings, Scene

COCO = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_mini"


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


def size_of(model: Path, canvas: Path, out: Path, **asked: int) -> tuple[int, int]:
    scene = Scene("wide", PROMPTS[:1], canvas)
    (line,) = generate(str(model), [scene], GenerateSettings(**asked, steps=1), out)
    return line["height"], line["width"]


def test_size_follows_the_shape_of_the_canvas(tiny_export: Path, tmp_path: Path):
    wide = write_canvas(tmp_path / "wide.png", (200, 300))
    line = generate(
        str(tiny_export), [Scene("wide", PROMPTS[:1], wide)], GenerateSettings(), tmp_path / "out"
    )[0]
    assert (line["height"], line["width"]) == (48, 72)  # nearest to 64 x 64 in area
    assert size_of(tiny_export, wide, tmp_path, width=96) == (64, 96)
    assert size_of(tiny_export, wide, tmp_path, height=80) == (80, 120)
    assert size_of(tiny_export, wide, tmp_path, height=64, width=96) == (64, 96)
    for asked in ({"height": 64, "width": 64}, {"height": 60}):
        with pytest.raises(InputError, match=r"of 8; leave .* --height 48 --width 72$"):
            size_of(tiny_export, wide, tmp_path, **asked)
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


def test_one_process_at_a_time_works_in_a_folder(
    tiny_export: Path, canvas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Another one, of another micro-batch, would give the same names to files of other last bits
    than the lines say. It waits, and then finds all there."""
    out, scenes = tmp_path / "out", [Scene("dog", PROMPTS[:2], canvas)]
    lines = generate(str(tiny_export), scenes, GenerateSettings(micro_batch=2), out)
    manifest = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").unlink()
    with ThreadPoolExecutor(1) as pool:
        with sole_use(out / LOCK):
            other = GenerateSettings(micro_batch=1)
            waiting = pool.submit(generate, str(tiny_export), scenes, other, out)
            while "another process works in it" not in capsys.readouterr().out:
                assert not waiting.done()
                time.sleep(0.05)
            (out / "manifest.jsonl").write_bytes(manifest)
        assert waiting.result() == lines
    assert (out / "manifest.jsonl").read_bytes() == manifest


def test_elements_that_leave_nothing_are_refused(tiny_export: Path, tmp_path: Path):
    """Of such an image `--again` could not read the canvas."""
    faint = Image.new("RGBA", (32, 32), (200, 0, 0, 100))
    faint.save(tmp_path / "faint.png")
    corner = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    corner.putpixel((0, 0), (200, 0, 0, 255))
    corner.save(tmp_path / "corner.png")
    for element in ("faint.png@0.5,0.5,0.5", "corner.png@0.1,0.1,0.5"):  # its pixel is clipped
        scene = Scene("dog", PROMPTS[:1], elements=(f"{tmp_path}/{element}",))
        with pytest.raises(InputError, match="elements of scene dog leave no foreground"):
            generate(str(tiny_export), [scene], GenerateSettings(), tmp_path / "out")
    assert not list(tmp_path.rglob("manifest.jsonl"))


def test_a_full_disk_takes_one_line_that_names_the_file(
    tiny_export: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Where the disk says so only when the data shall be on it."""

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    out = tmp_path / "out"
    arguments = ["generate", str(tiny_export), "--prompt", "x", "--steps", "1", "--out", str(out)]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"anyscene: {out}/raw/text-0-")
    assert told.endswith(".png: No space left on device\n")
    assert not [path for path in out.rglob("*") if path.is_file() and path.name != LOCK]


def test_other_settings_do_not_overwrite(tiny_export: Path, canvas: Path, tmp_path: Path):
    out = tmp_path / "out"
    scene = Scene("dog", PROMPTS[:1], canvas)
    (first,) = generate(str(tiny_export), [scene], GenerateSettings(), out)
    write_canvas(canvas, seed=1)
    (second,) = generate(str(tiny_export), [scene], GenerateSettings(steps=2), out)
    assert first["image"] != second["image"]
    assert first["canvas"] != second["canvas"]
    assert all(result.equal for result in remake(out / "manifest.jsonl"))


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


def test_float16_on_a_cpu_works_without_a_word(
    tiny_export: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """diffusers warns three times that a CPU cannot; its kernels can."""
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    settings = GenerateSettings(dtype="fp16", height=SIZE, width=SIZE, device="cpu")
    (line,) = generate(str(tiny_export), [Scene("text", PROMPTS[:1])], settings, tmp_path / "out")
    assert line["dtype"] == "fp16"
    assert pixels_of(tmp_path / "out" / line["image"]).std() > 1
    assert "cannot run" not in caplog.text


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
