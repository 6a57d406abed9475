"""Background removal: rembg with a model file of a few bytes, any function, and what goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyscene.compositing.compose import compose, parse_element
from anyscene.compositing.matting import cut_out, load_matting
from anyscene.errors import InputError
from anyscene.generate import generate
from anyscene.scene_list import GenerateSettings, Scene


def field(number: int, value: bytes | int | str) -> bytes:
    """A field of a protocol buffer; all numbers and lengths are below 2^14."""

    def varint(whole: int) -> bytes:
        return bytes([whole]) if whole < 128 else bytes([whole & 127 | 128, whole >> 7])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def red_is_foreground(path: Path) -> Path:
    """An ONNX file that returns its input 1 3 320 320: rembg takes its red for the mask."""
    shape = b"".join(field(1, field(1, size)) for size in (1, 3, 320, 320))
    tensor = field(1, field(1, 1) + field(2, shape))  # float32
    graph = (
        field(1, field(1, "in") + field(2, "out") + field(4, "Identity"))
        + field(2, "graph")
        + field(11, field(1, "in") + field(2, tensor))
        + field(12, field(1, "out") + field(2, tensor))
    )
    path.write_bytes(field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13)))
    return path


def photo(path: Path) -> Path:
    """A red block of 40 x 30 pixels on blue."""
    pixels = np.zeros((96, 128, 3), np.uint8)
    pixels[..., 2] = 200
    pixels[30:60, 50:90] = (250, 0, 0)
    Image.fromarray(pixels).save(path)
    return path


def by_colour(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    rgba.putalpha(image.getchannel("R").point(lambda value: 255 * (value > 100)))
    return rgba


def test_any_function_cuts_out_and_the_height_is_the_elements(tmp_path: Path):
    element = f"{photo(tmp_path / 'photo.png')}@0.5,0.5,0.5"
    placement = parse_element(element, by_colour)
    assert placement.image.size == (40, 30)
    canvas = np.array(compose([placement], (64, 64)))
    rows = np.nonzero(canvas[..., 3].max(axis=1) > 127)[0]
    assert (rows[0], rows[-1]) == (16, 47)
    with pytest.raises(InputError, match="--matting isnet-general-use does that"):
        parse_element(element)


def test_photos_are_cut_out_on_their_way_to_a_scene(tiny_export: Path, tmp_path: Path):
    element = f"{photo(tmp_path / 'photo.png')}@0.5,0.5,0.5"
    scene = Scene("toy", ("a red box in a room",), elements=(element,))
    settings = GenerateSettings(steps=1, device="cpu")
    with pytest.raises(InputError, match="--matting isnet-general-use does that"):
        generate(str(tiny_export), [scene], settings, tmp_path / "none")
    (line,) = generate(str(tiny_export), [scene], settings, tmp_path / "out", by_colour)
    with Image.open(tmp_path / "out" / line["canvas"]) as canvas:
        pixels = np.array(canvas)
    core = pixels[..., 3] == 255
    rows = np.nonzero(core.any(axis=1))[0] / len(pixels)
    assert 0.25 <= rows[0] < 0.3
    assert 0.7 < rows[-1] <= 0.75
    assert (pixels[core][:, 0] > 200).all()  # no blue of the photo's background
    assert (pixels[core][:, 2] < 50).all()


def test_elements_with_alpha_are_used_as_they_are(tmp_path: Path):
    path = tmp_path / "cut.png"
    by_colour(Image.open(photo(tmp_path / "photo.png"))).save(path)

    def refuse(_image: Image.Image) -> Image.Image:
        raise AssertionError

    assert parse_element(f"{path}@0.5,0.5,0.5", refuse).image.size == (128, 96)


def test_nothing_found_and_other_sizes_are_named():
    grey = Image.new("RGB", (8, 8), (50, 50, 50))
    with pytest.raises(InputError, match=r"found no element in x\.jpg"):
        cut_out(grey, by_colour, "x.jpg")
    with pytest.raises(InputError, match=r"background removal of x\.jpg returned RGB of \(8, 8\)"):
        cut_out(grey, lambda image: image, "x.jpg")


def test_matting_without_rembg_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    with pytest.raises(InputError, match=r"pip install 'anyscene\[matting\]'"):
        load_matting("u2net")


@pytest.mark.slow
def test_rembg_with_a_local_file_cuts_out(tmp_path: Path):
    """In a process of its own, without numba's compiler: rembg imports what it would compile."""
    pytest.importorskip("onnxruntime")
    code = (
        "import sys\n"
        "from anyscene.compositing.compose import parse_element\n"
        "from anyscene.compositing.matting import load_matting\n"
        "from anyscene.errors import InputError\n"
        "model, photo, canvas = sys.argv[1:]\n"
        "parse_element(photo + '@0.5,0.5,0.5', load_matting(model)).image.save(canvas)\n"
        "for name in ('u2nett', 'dis:gone.onnx', 'x:' + model, photo[:-4] + '.onnx'):\n"
        "    try:\n"
        "        load_matting(name)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    model, canvas = red_is_foreground(tmp_path / "red.onnx"), tmp_path / "cut.png"
    (tmp_path / "photo.onnx").write_text("no model")
    command = [sys.executable, "-c", code, str(model), str(photo(tmp_path / "photo.png"))]
    done = subprocess.run(
        [*command, str(canvas)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    with Image.open(canvas) as cut:
        assert cut.mode == "RGBA"
        assert abs(cut.width - 40) <= 6
        assert abs(cut.height - 30) <= 6
        middle = cut.getpixel((cut.width // 2, cut.height // 2))
    assert middle[:3] == (250, 0, 0)  # the photo's own
    assert middle[3] >= 245
    lines = done.stdout.splitlines()
    assert lines[0] == "--matting 'u2nett' is no model of rembg; did you mean 'u2net'?"
    assert lines[1] == "--matting dis:gone.onnx: no file gone.onnx"
    assert lines[2].endswith("'x' must be one of u2net, dis")
    assert "photo.onnx could not be loaded" in lines[3]
