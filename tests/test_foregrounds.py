"""Foregrounds are looked at before the first image is made: one line names scene and file."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from canvases import SIZE, write_canvas
from PIL import ExifTags, Image, ImageFile

from anyscene.cli import main
from anyscene.compositing.compose import read_canvas
from anyscene.errors import InputError
from anyscene.foregrounds import check_foregrounds
from anyscene.image_jobs import Model, load_model
from anyscene.scene_list import GenerateSettings, Scene


@pytest.fixture(scope="module")
def model(tiny_export: Path) -> Model:
    return load_model(str(tiny_export), "fp32", "cpu")


def check(model: Model, *scenes: Scene, matted: bool = False, **settings: Any) -> None:
    check_foregrounds(model, scenes, GenerateSettings(**settings), matted=matted)


def test_a_bad_canvas_of_the_last_scene_is_told_before_the_first_image(
    tiny_export: Path, canvas: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opaque, path, out = tmp_path / "opaque.png", tmp_path / "scenes.yaml", tmp_path / "out"
    Image.new("RGB", (SIZE, SIZE)).save(opaque)
    scenes = [f"{{prompt: x, canvas: {canvas}}}", f"{{scene_id: b, prompt: x, canvas: {opaque}}}"]
    path.write_text("".join(f"- {scene}\n" for scene in scenes))
    words = ["generate", str(tiny_export), "--scenes", str(path), "--steps", "1"]
    assert main([*words, "--micro-batch", "1", "--out", str(out)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"anyscene: scene b: {opaque} has no alpha channel (RGB)")
    assert told.count("\n") == 1
    assert not out.exists()


def test_what_a_header_tells_is_told(model: Model, canvas: Path, tmp_path: Path) -> None:
    def refused(message: str, **scene: Any) -> None:
        with pytest.raises(InputError, match=f"^scene b: .*{message}"):
            check(model, Scene("a", ("x",), canvas), Scene("b", ("x",), **scene))

    text, photo, long = (tmp_path / f"{name}.png" for name in ("text", "photo", "long"))
    text.write_text("no picture")
    Image.new("RGB", (SIZE, SIZE)).save(photo)
    write_canvas(long, (SIZE, 30 * SIZE))
    refused("text.png cannot be read as an image", canvas=text)
    refused("photo.png has no alpha channel", canvas=photo)
    refused("long.png is 1920 x 64 pixels .* a shape that no image of about 64", canvas=long)
    refused("gone.png does not exist", canvas=tmp_path / "gone.png")
    refused("photo.png has no alpha channel", elements=(f"{photo}@0.5,0.5,0.5",))
    refused("must be FILE@X,Y,HEIGHT", elements=(f"{canvas}@0.5,0.5,0.5", f"{canvas}@0.5"))
    refused("height=9 must be above 0", elements=(f"{canvas}@0.5,0.5,9",))
    refused("wholly outside the canvas", elements=(f"{canvas}@3,0.5,0.5",))
    check(model, Scene("b", ("x",), elements=(f"{photo}@3,0.5,0.5",)), matted=True)  # to be cut out


def test_a_lying_tiff_is_turned_once(model: Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying, shape = tmp_path / "lying.tiff", (SIZE, 2 * SIZE)
    Image.new("RGBA", shape, "red").save(lying, compression="tiff_lzw", exif=exif)
    check(model, Scene("a", ("x",), lying), height=shape[0], width=shape[1])
    rgb, alpha = read_canvas(lying, shape)
    assert (rgb[0, 0] * alpha).shape[2:] == shape


def test_a_file_of_many_scenes_is_read_once(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, reads = tmp_path / "long.png", []
    write_canvas(long, (SIZE, 2 * SIZE))
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda file: reads.append(file.filename) or load(file)
    )
    element = f"{long}@0.5,0.5,0.5"
    check(model, *(Scene(name, ("x",), elements=(element, element)) for name in "abc"))
    assert reads == [str(long)]


def test_pixels_are_not_read(
    model: Model, canvas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = tmp_path / "turned.webp"
    Image.new("RGBA", (2 * SIZE, SIZE)).save(turned, exif=exif)
    load = Mock(side_effect=AssertionError)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    check(model, Scene("a", ("x",), canvas), Scene("b", ("x",), elements=(f"{canvas}@0,0,1",)))
    check(model, Scene("c", ("x",), turned), height=2 * SIZE, width=SIZE)
    assert not load.called
