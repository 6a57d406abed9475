"""A benchmark: frozen, the same bytes again, even over categories, canvases made of real pixels."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anyscene.benchmark.build import BuildSettings, build
from anyscene.benchmark.layouts import recombined
from anyscene.benchmark.prompts import listed, named, recombined_prompt
from anyscene.benchmark.scenes import Benchmark, categories_of, read_benchmark
from anyscene.benchmark.sources import Source, stratified
from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.errors import DamageError, InputError
from data_prep.boxes import SOFT_REACH
from data_prep.framing import soften

COCO = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_mini"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.array(file)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_benchmark_is_built_byte_for_byte_again(demo_shards: Path, tmp_path: Path):
    shards = ShardManifest.read(demo_shards / "train")
    for name in ("first", "second"):
        build(shards, tmp_path / name, BuildSettings(6, 0.5))
    first, second = (files_of(tmp_path / name) for name in ("first", "second"))
    assert first == second
    assert len(first) > 20
    assert not list(tmp_path.glob(".*"))


def test_original_canvas_has_the_real_pixels_under_its_mask(demo_benchmark: Benchmark):
    for scene in demo_benchmark.scenes:
        canvas = pixels(demo_benchmark.folder / scene["canvas"])
        real = pixels(demo_benchmark.folder / str(scene["real"]))
        mask = pixels(demo_benchmark.folder / scene["mask"])
        assert np.array_equal(canvas[..., 3], mask)
        assert np.array_equal(canvas[mask > 0][:, :3], real[mask > 0])
        assert not canvas[mask == 0].any()
        assert scene["truth"] is not None
        numbers = pixels(demo_benchmark.folder / scene["elements_map"])
        assert set(np.unique(numbers)) <= set(range(len(scene["elements"]) + 1))


def test_recombined_scene_joins_elements_of_several_images(demo_shards: Path, tmp_path: Path):
    built = build(ShardManifest.read(demo_shards / "train"), tmp_path / "b", BuildSettings(4, 1.0))
    assert built.scenes, "no host has room: the test shows nothing"
    for scene in built.scenes:
        assert scene["layout"] == "recombined"
        assert scene["real"] is None
        assert scene["truth"] is None
        assert len(set(scene["source_images"])) > 1
        images = {element["image_id"] for element in scene["elements"]}
        assert images == set(scene["source_images"])
        numbers = pixels(built.folder / scene["elements_map"])
        for number, element in enumerate(scene["elements"], start=1):
            left, top, width, height = element["box_xywh"]
            rows, columns = np.nonzero(numbers == number)
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() + 1 - left, rows.max() + 1 - top) == (width, height)
            assert f" {element['category']}" in scene["prompt"]


@pytest.mark.parametrize("gap", range(1, 7))
def test_guest_brings_no_soft_edge_of_its_neighbour_along(gap: int):
    """Two squares side by side, `gap` pixels apart, with soft edges as prepared."""
    numbers = np.zeros((64, 64), np.uint8)
    numbers[20:30, 10:20] = 1
    numbers[20:28, 20 + gap : 28 + gap] = 2
    mask = soften((numbers > 0).astype(np.uint8) * 255, 1.0)
    alone = soften((numbers == 1).astype(np.uint8) * 255, 1.0)
    scene = np.full((64, 64, 3), 90, np.uint8)
    elements = [
        {"category": name, "box_xywh": box, "area_share": share, "annotation_id": n}
        for n, (name, box, share) in enumerate(
            [("a", [10, 20, 10, 10], 0.02), ("b", [20 + gap, 20, 8, 8], 0.01)]
        )
    ]
    meta: Any = {"elements": elements, "image_id": 1}
    empty: Any = {"elements": [], "image_id": 2}
    blank = np.zeros((64, 64), np.uint8)
    host = Source(empty, "scene.png", b"", scene, blank, blank)
    guest = Source(meta, "scene.png", b"", scene, mask, numbers)
    canvas, placed, _ = recombined(host, [guest], np.random.default_rng(0), 1)
    assert bool(placed) == (gap >= 2 * SOFT_REACH)
    if placed:
        assert canvas.alpha.sum(dtype=int) == alone.sum(dtype=int)


def test_damaged_benchmark_is_refused(demo_shards: Path, tmp_path: Path):
    shards, out = ShardManifest.read(demo_shards / "val"), tmp_path / "b"
    build(shards, out, BuildSettings(3, 0.0))
    build(shards, out, BuildSettings(3, 0.0))  # the same arguments: kept
    with pytest.raises(InputError, match="built otherwise"):
        build(shards, out, BuildSettings(2, 0.0))
    canvas = next((out / "canvas").iterdir())
    canvas.write_bytes(canvas.read_bytes()[:-1] + b"x")
    with pytest.raises(DamageError, match=canvas.name):
        read_benchmark(out, check=True)
    with pytest.raises(InputError, match="no benchmark in"):
        read_benchmark(tmp_path / "none")


@given(st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_stratified_choice_serves_every_category_there_is(shown: list[set[str]], count: int):
    metas = [{"key": f"k{n}", "categories": own} for n, own in enumerate(shown)]
    chosen = stratified(metas, count, 0, lambda meta: meta["categories"])  # pyright: ignore
    keys = [meta["key"] for meta in chosen]
    assert len(keys) == len(set(keys)) == min(count, len(metas))
    every = set().union(*shown)
    if count >= len(every):
        assert set().union(*(meta["categories"] for meta in chosen)) == every  # pyright: ignore


def test_stratified_choice_is_even_where_the_data_is_not():
    metas = [{"key": f"k{n}", "categories": {"person"}} for n in range(90)]
    metas += [{"key": f"r{n}", "categories": {"toaster"}} for n in range(10)]
    chosen = stratified(metas, 20, 0, lambda meta: meta["categories"])  # pyright: ignore
    counts = Counter(next(iter(meta["categories"])) for meta in chosen)  # pyright: ignore
    assert counts == {"person": 10, "toaster": 10}


def test_prompt_of_a_recombined_photo_names_its_guests():
    host = {"captions": ["A man rides a wave."], "source": "coco", "elements": []}
    guests = [({}, {"category": "dog"}), ({}, {"category": "orange"})]
    prompt = recombined_prompt(host, guests, [1.0, 2.0])  # pyright: ignore
    assert prompt == "A man rides a wave, with a dog and an orange"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert named("umbrella") == "an umbrella"


def test_photos_build_a_benchmark_from_the_command_line(tmp_path: Path):
    if not COCO.is_dir():
        pytest.skip(f"{COCO} is not here")
    out = tmp_path / "coco"
    arguments = ["benchmark", "build", str(out), "--images", str(COCO / "images")]
    arguments += ["--instances", str(COCO / "instances.json")]
    arguments += ["--captions", str(COCO / "captions.json")]
    assert main([*arguments, "--size", "12", "--pixels", "256", "--workers", "1"]) == 0
    built = read_benchmark(out, check=True)
    assert Counter(scene["layout"] for scene in built.scenes) == {"original": 6, "recombined": 6}
    assert len({category for scene in built.scenes for category in categories_of(scene)}) > 8
    assert "re-creation" in (out / "README.md").read_text()
    captions = json.loads((COCO / "captions.json").read_text())["annotations"]
    spoken = {" ".join(row["caption"].split()) for row in captions}
    assert all(s["prompt"] in spoken for s in built.scenes if s["layout"] == "original")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs one of --shards, --subjects, or --images and --instances"),
        (["--shards", "S", "--size", "0"], "--size 0 must be at least 1"),
        (["--shards", "S", "--recombined", "2"], "--recombined 2 must be between 0 and 1"),
        (["--shards", "S"], "no shards in 'S'"),
        (["--shards", "S", "--pairs", "2"], "--pairs 2 is for --subjects"),
        (["--shards", "S", "--workers", "2"], "--workers 2 is for COCO, not for --shards"),
        (["--subjects", "F", "--size", "9"], "--size 9 is for COCO or shards, not for --subjects"),
    ],
)
def test_build_tells_a_mistake_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["benchmark", "build", str(tmp_path / "b"), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
