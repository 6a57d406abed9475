"""A folder of images with masks, alpha channels or SA-1B's JSON, prepared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_coco import decoded, file_bytes, runs
from small_folder import SIZE, Samples, assert_two_blocks, photo, prepare, save, two_blocks

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.folder_sample import CUT_OUT, NO_FOREGROUND
from data_prep.parts import Part


def test_pairs_of_image_and_mask_give_samples(tmp_path: Path) -> None:
    source = tmp_path / "source"
    scenes = {name: photo(seed) for seed, name in enumerate(("a", "b", "c"))}
    save(source, "images/a.png", scenes["a"])
    save(source, "masks/a.png", two_blocks())
    save(source, "b.png", scenes["b"])
    save(source, "b_mask.png", two_blocks(7, 9))
    save(source, "c.png", scenes["c"])
    save(source, "c.mask.png", two_blocks() > 0)
    (source / "images/a.txt").write_text("two  blocks\n\nblocks\n")
    manifest, samples = prepare(tmp_path)
    assert samples.keys() == scenes.keys()
    for name, sample in samples.items():
        assert_two_blocks(sample, scenes[name])
        assert sample["meta"]["licence"] == "CC0"
        assert {element["category"] for element in sample["meta"]["elements"]} == {"object"}
    ids = {e["annotation_id"]: e["box_xywh"][0] for e in samples["b"]["meta"]["elements"]}
    assert ids == {7: 8, 9: 30}
    assert samples["a"]["meta"]["captions"] == ["two blocks", "blocks"]
    assert samples["b"]["meta"]["captions"] == ["a scene"]
    assert manifest.rejected == {}
    assert manifest.filters["masks"] == "auto"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True, "exact": True}),
        ("a.webp", {"quality": 95, "exact": True}),
    ],
)
def test_a_scene_kept_under_alpha_0_is_a_sample(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    scene, alpha = photo(), two_blocks(255, 200)
    alpha[3:8, 28:60] = 100  # less than half opaque: no foreground
    path = save(tmp_path / "source", name, np.dstack([scene, alpha]), **options)
    stored = np.asarray(Image.open(path).convert("RGBA"))[..., :3]
    if options.get("quality"):
        assert np.abs(stored.astype(int) - scene).mean() < 12
    _, samples = prepare(tmp_path)
    assert np.array_equal(samples["a"]["mask"], two_blocks())
    difference = np.abs(samples["a"]["scene"][..., ::-1].astype(int) - stored)
    assert difference.max() <= (0 if name.endswith("png") else 60)  # a WebP is stored as PNG here
    assert difference.mean() < 2


def test_cut_outs_and_images_without_masks_are_rejected(tmp_path: Path) -> None:
    source = tmp_path / "source"
    scene, alpha = photo(), two_blocks()
    inside = alpha[..., None] > 0
    save(source, "black.png", np.dstack([scene * inside, alpha]))
    save(source, "white.png", np.dstack([np.where(inside, scene, np.uint8(255)), alpha]))
    save(source, "lost.webp", np.dstack([scene, alpha]), lossless=True)  # zeros under alpha 0
    save(source, "opaque.png", np.dstack([scene, np.full_like(alpha, 255)]))
    save(source, "plain.jpg", scene)
    save(source, "kept.png", np.dstack([scene, alpha]))
    manifest, samples = prepare(tmp_path)
    assert samples.keys() == {"kept"}
    assert manifest.rejected == {f"image: {CUT_OUT}": 3, f"image: {NO_FOREGROUND}": 2}


def test_masks_in_the_form_of_sa_1b_give_samples(tmp_path: Path) -> None:
    source = tmp_path / "source"
    save(source, "a.png", photo())
    first, second, part = two_blocks(1, 0), two_blocks(0, 1), np.zeros(SIZE, np.uint8)
    part[35:45, 35:45] = 1
    rows = [
        {"id": number, "segmentation": runs(mask, True), "predicted_iou": iou}
        for number, (mask, iou) in enumerate([(part, 0.9), (first, 0.9), (second, 1), (first, 0.1)])
    ]
    table = {"image": {"height": 64, "width": 64, "file_name": "a.png"}, "annotations": rows}
    (source / "a.json").write_text(json.dumps(table))
    manifest, samples = prepare(tmp_path)
    assert_two_blocks(samples["a"], photo())
    ids = {element["annotation_id"] for element in samples["a"]["meta"]["elements"]}
    assert ids == {1, 2}
    assert manifest.rejected == {
        "element: a mask under the least score": 1,
        "element: a part of another": 1,
    }


def test_a_mask_counts_before_json_and_json_before_alpha(tmp_path: Path) -> None:
    source = tmp_path / "source"
    whole = np.dstack([photo(), two_blocks(255, 0)])
    for name in ("mask", "json", "alpha"):
        save(source, f"{name}.png", whole)
        if name != "alpha":
            table = {"image": {"height": 64, "width": 64}, "annotations": []}
            table["annotations"] = [{"id": 1, "segmentation": runs(two_blocks(0, 1), True)}]
            (source / f"{name}.json").write_text(json.dumps(table))
    save(source, "mask_mask.png", two_blocks())
    _, samples = prepare(tmp_path)
    expected = {"mask": (255, 255), "json": (0, 255), "alpha": (255, 0)}
    for name, values in expected.items():
        assert np.array_equal(samples[name]["mask"], two_blocks(*values)), name


def test_captions_come_from_one_place(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a", "b", "c"):
        save(source, f"images/{name}.png", photo())
        save(source, f"masks/{name}.png", two_blocks())
    (source / "images/a.txt").write_text("beside a")
    (source / "images/b.txt").write_text("beside b")
    manifest, samples = prepare(tmp_path, default_caption=None)
    assert {name: s["meta"]["captions"] for name, s in samples.items()} == {
        "a": ["beside a"],
        "b": ["beside b"],
    }
    assert manifest.rejected == {"image: no captions": 1}
    (tmp_path / "captions.json").write_text(
        '{"b": ["one", "two"], "images/c.png": "three", "d": "x"}'
    )
    captions = tmp_path / "captions.json"
    manifest, samples = prepare(
        tmp_path, default_caption=None, captions=captions, out=tmp_path / "other"
    )
    assert {name: s["meta"]["captions"] for name, s in samples.items()} == {
        "b": ["one", "two"],
        "c": ["three"],
    }
    unused = {"caption: its name is not that of one image": 1}
    assert manifest.rejected == {"image: no captions": 1} | unused
    captions.write_text('{"d": "four"}')
    with pytest.raises(InputError, match=r"such as 'd', and none is an image .*'images/a\.png'"):
        prepare(tmp_path, captions=captions, out=tmp_path / "third")


def link_to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda s: save(s, "a_mask.png", two_blocks(size=(64, 65))), "size differs from the anno"),
        (lambda s: save(s, "a_mask.png", np.zeros(SIZE, np.uint8)), "an empty mask"),
        (lambda s: (s / "a_mask.png").write_bytes(b"none"), "unreadable mask"),
        (lambda s: (s / "a.json").write_text("{}"), "its JSON is not in SA-1B's form"),
        (lambda s: (s / "a.txt").write_bytes(b"caf\xe9"), "captions that are not UTF-8"),
        (lambda s: (s / "a.jpg").write_bytes(b""), "unreadable file"),
        (lambda s: link_to_nothing(s / "a_mask.png"), "unreadable mask"),
        (lambda s: link_to_nothing(s / "a.json"), "unreadable JSON"),
        (lambda s: link_to_nothing(s / "a.jpg"), "unreadable file"),
        (lambda s: s, NO_FOREGROUND),
    ],
)
def test_an_image_that_cannot_be_used_is_counted(
    write: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    save(source, "a.jpg", photo())
    save(source, "good.png", photo())
    save(source, "good_mask.png", two_blocks())
    write(source)
    manifest, samples = prepare(tmp_path)
    assert samples.keys() == {"good"}
    assert len(manifest.rejected) == 1
    assert next(iter(manifest.rejected)).startswith(f"image: {reason}")


def test_workers_and_parts_make_the_same_samples(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path / "source", f"{number}.png", photo(number))
        save(tmp_path / "source", f"{number}_mask.png", two_blocks())
    _, samples = prepare(tmp_path)
    prepare(tmp_path, workers=2, out=tmp_path / "again")
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "again")
    together: Samples = {}
    for index in range(2):
        _, found = prepare(tmp_path, out=tmp_path / "parts", part=Part(index, 2))
        assert not together.keys() & found.keys()
        together |= found
    assert together.keys() == samples.keys()
    for name, sample in together.items():
        assert np.array_equal(sample["scene"], samples[name]["scene"])


def test_a_finished_folder_is_kept_until_its_files_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        save(tmp_path / "source", f"{name}.png", photo())
        save(tmp_path / "source", f"{name}_mask.png", two_blocks())
    prepare(tmp_path, limit=1)
    before = file_bytes(tmp_path / "out")
    capsys.readouterr()
    _, samples = prepare(tmp_path, limit=1)
    assert "1 samples, made with the same arguments, are there already" in capsys.readouterr().out
    assert samples.keys() == {"a"}
    (tmp_path / "source" / "b.txt").write_text("changed")
    with pytest.raises(InputError, match="files_sha256 is"):
        prepare(tmp_path, limit=1)
    assert file_bytes(tmp_path / "out") == before
    _, samples = prepare(tmp_path, overwrite=True)
    assert samples["b"]["meta"]["captions"] == ["changed"]


def test_the_command_says_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for name in ("a", "b", "c"):
        save(source, f"{name}.png", photo())
        save(source, f"{name}_mask.png", two_blocks())
    (source / "b.txt").write_text("two blocks")
    arguments = ["prepare", "folder", str(source), f"--out={out}", "--size=64", "--workers=1"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 1 samples",
        "  left out          2  image: no captions",
    ]


def test_the_command_prepares_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    save(source, "a.png", photo())
    save(source, "a_mask.png", two_blocks(1, 1))
    arguments = ["prepare", "folder", str(source), f"--out={out}", "--size=64", "--workers=1"]
    assert main(arguments) == 2
    assert "no captions" in capsys.readouterr().err
    arguments += ["--default-caption=a block", "--masks=ids", "--category=block", "--name=blocks"]
    assert main(arguments) == 0
    (sample,) = decoded(ShardManifest.read(out)).values()
    assert sample["meta"]["key"] == "blocks-a"
    assert sample["meta"]["captions"] == ["a block"]
    assert [element["category"] for element in sample["meta"]["elements"]] == ["block"]
