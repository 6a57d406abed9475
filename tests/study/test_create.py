"""From manifests to a study folder: blinded, whole or not at all, and mistakes in one line."""

import csv
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_study import METHODS, PROTOCOL, Links, make_plan, make_study, write_method

from anyscene.cli import main
from anyscene.errors import DamageError, InputError
from anyscene.manifest import read_lines
from anyscene.study.create import create_study
from anyscene.study.plan import Plan
from anyscene.study.protocol import Example
from anyscene.study.store import FILE_NAME, IMAGES, Store


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_every_image_is_there_with_its_own_pixels(made: tuple[Path, Links]):
    folder, _ = made
    store = Store(folder)
    pictures = [one for one in store.pictures().values() if one.method]
    assert len(pictures) == len(METHODS) * PROTOCOL.cells
    for picture in pictures:
        scene, place = picture.scene_id[-1], picture.prompt[-1]
        source = folder.parent / f"images_of_{picture.method}" / f"{scene}-{place}-10.png"
        assert np.array_equal(pixels(folder / IMAGES / f"{picture.name}.png"), pixels(source))


def test_no_file_s_name_size_or_metadata_tells_the_method(made: tuple[Path, Links]):
    folder, _ = made
    store = Store(folder)
    sizes: dict[str, set[int]] = {}
    for picture in store.pictures().values():
        path = folder / IMAGES / f"{picture.name}.png"
        if picture.method:  # no attention check
            sizes.setdefault(picture.method, set()).add(path.stat().st_size)
    assert sizes.keys() == {*METHODS}
    assert len(set.union(*sizes.values())) == 1
    for path in (folder / IMAGES).iterdir():
        assert len(path.stem) == 32
        assert not any(method.encode() in path.read_bytes() for method in METHODS)
        with Image.open(path) as image:
            image.load()
            assert image.info == {}
    sources = [*folder.parent.glob("images_of_*/*-*-10.png")]
    assert all(b"method" in path.read_bytes() for path in sources)  # so this test can fail
    assert len({path.stat().st_size for path in sources}) > 1


def test_what_is_transparent_in_a_foreground_is_empty(made: tuple[Path, Links]):
    folder, _ = made
    names = {picture.foreground for picture in Store(folder).pictures().values()}
    assert len(names) == PROTOCOL.foregrounds
    for name in names:
        canvas = pixels(folder / IMAGES / f"{name}.png")
        assert (canvas[:, :24] == 0).all()
        assert (canvas[:, 24:, 3] == 255).all()


def test_the_same_secret_gives_the_same_study_and_another_one_other_names(tmp_path: Path):
    plan = make_plan(tmp_path)
    assert plan.tasks() == Plan(plan.protocol, plan.methods, plan.cells, plan.secret).tasks()
    other = Plan(plan.protocol, plan.methods, plan.cells, bytes(32))
    assert not {task.image for task in plan.tasks()} & {task.image for task in other.tasks()}


def test_links_are_for_their_owner_alone_and_tokens_nowhere_else(made: tuple[Path, Links]):
    folder, links = made
    path = folder / "links.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    tokens = [*links.people.values(), links.admin]
    assert len(set(tokens)) == 4
    assert all(len(token) >= 22 for token in tokens)  # 128 bits
    kept = (folder / FILE_NAME).read_bytes()
    assert not any(token.encode() in kept for token in tokens)
    store = Store(folder)
    assert [store.annotator_of(token) for token in links.people.values()] == store.people()


def test_an_attention_check_is_large_enough_to_read(made: tuple[Path, Links]):
    folder, _ = made
    (check,) = {task.image for task in Store(folder).tasks("a01") if task.expected is not None}
    image = pixels(folder / IMAGES / f"{check}.png")
    assert image.shape == (384, 384, 3)  # of an image of 48 pixels
    assert (image == 255).all(-1).mean() > 0.01  # letters
    assert (image == 0).all(-1).mean() > 0.1  # on black


def test_examples_of_the_protocol_are_taken(tmp_path: Path):
    Image.new("RGBA", (20, 10), (1, 2, 3, 255)).save(tmp_path / "canvas.png")
    Image.new("RGB", (20, 10), (4, 5, 6)).save(tmp_path / "scene.png")
    protocol = replace(PROTOCOL, examples=(Example("canvas.png", "scene.png", "Look here."),))
    folder, _ = make_study(tmp_path, protocol)
    (example,) = Store(folder).protocol.examples
    assert example.caption == "Look here."
    assert pixels(folder / IMAGES / f"{example.image}.png")[0, 0].tolist() == [4, 5, 6]
    with pytest.raises(InputError, match=r"an example: no file .*other\.png"):
        make_study(tmp_path / "b", replace(PROTOCOL, examples=(Example("other.png", "b", "c"),)))


# ---- Manifests that do not fit


def change(path: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Let `edit` change the lines of a manifest."""
    lines = read_lines(path)
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


MISMATCHES = {
    "missing scene": (lambda ls: ls.pop(), ["noisy_method", "lacks 1 of 6", "scene-2"]),
    "missing image": (lambda ls: ls[0].update(image="x.png"), ["scene-0", "no file", "x.png"]),
    "other size": (lambda ls: ls[0].update(width=64), ["48 x 48", "64 x 48", "tell them apart"]),
    "other canvas": (lambda ls: ls[0].update(canvas_sha256="0"), ["different foregrounds"]),
    "seed twice": (lambda ls: ls.append(ls[0]), ["seed 10 2 times"]),
    "two seeds": (lambda ls: ls.append({**ls[0], "seed": 11}), ["unequal", "'noisy_method' 2"]),
    "no image": (lambda ls: ls.clear(), ["lists no image"]),
    "same name": (lambda ls: [ls_.update(method=METHODS[0]) for ls_ in ls], ["two manifests"]),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_manifests_that_do_not_fit_are_one_clear_error(name: str, tmp_path: Path, capsys):
    edit, parts = MISMATCHES[name]
    error = create(tmp_path, capsys, edit=edit, code=2)
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"foregrounds": 4, "sets": 4}, ["foregrounds=4", "manifests have 3"]),
        ({"prompts": 3}, ["prompts=3", "'scene-0'", "has 2"]),
        ({"images_per_prompt": 2}, ["images_per_prompt=2", "'scene-0'", "has 1"]),
    ],
)
def test_a_protocol_with_other_numbers_is_one_clear_error(changes, parts, tmp_path: Path, capsys):
    error = create(tmp_path, capsys, changes=changes, code=2)
    for part in parts:
        assert part in error


@pytest.mark.parametrize("keep", [0, 20, 0.9])
def test_a_damaged_png_is_told_and_nothing_is_left(keep: float, tmp_path: Path, capsys):
    def damage(lines: list[dict[str, Any]]) -> None:
        path = tmp_path / f"images_of_{METHODS[1]}" / lines[2]["image"]
        data = path.read_bytes()
        path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])

    error = create(tmp_path, capsys, edit=damage, code=1)
    assert "another checksum" in error
    assert not [*tmp_path.glob("*study*")]


def test_a_damaged_png_with_its_own_checksum_is_told(tmp_path: Path):
    plan = make_plan(tmp_path)
    source = plan.cells[0].images[0]
    source.image.write_bytes(source.image.read_bytes()[:60])
    source.line["sha256"] = None  # type: ignore[typeddict-item]
    with pytest.raises(DamageError, match="cannot be read"):
        create_study(plan, tmp_path / "study", url="http://x", protocol_folder=tmp_path)


def test_one_method_cannot_be_compared(tmp_path: Path):
    with pytest.raises(InputError, match="1 method is too few"):
        make_plan(tmp_path, methods=METHODS[:1])


# ---- The command


def create(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *options: str,
    edit: Callable[[list[dict[str, Any]]], object] | None = None,
    changes: dict[str, Any] | None = None,
    code: int = 0,
) -> str:
    """Run `anyscene study create` on two methods; what it said where it must have said it."""
    manifests = [write_method(folder / f"images_of_{method}", method) for method in METHODS]
    if edit:
        change(manifests[1], edit)
    values = {**json.loads(json.dumps(PROTOCOL, default=vars)), **(changes or {})}
    (folder / "protocol.yaml").write_text(yaml.safe_dump(values))
    named = [f"--manifest={path}" for path in manifests]
    arguments = ["study", "create", "--protocol", str(folder / "protocol.yaml"), *named]
    assert main([*arguments, "--out", str(folder / "study"), *options]) == code
    out, error = capsys.readouterr()
    assert (error == "") if code == 0 else (error.count("\n") == 1)
    return error or out


def test_create_says_what_it_asks_for_and_where_the_links_are(tmp_path: Path, capsys):
    said = create(tmp_path, capsys, "--url", "https://study.example.org/")
    for part in ("12 images", "of 3 people", "60 answers", "2 minutes at 12 s", "difference of"):
        assert part in said
    with (tmp_path / "study" / "links.csv").open(newline="") as file:
        links = {row["name"]: row["link"] for row in csv.DictReader(file)}
    assert [*links] == ["a01", "a02", "a03", "admin"]
    assert links["a01"].startswith("https://study.example.org/s/")
    assert links["admin"].startswith("https://study.example.org/admin/")


def test_a_dry_run_says_the_same_and_writes_nothing(tmp_path: Path, capsys):
    assert "12 images" in create(tmp_path, capsys, "--dry-run")
    assert not (tmp_path / "study").exists()


def test_a_method_s_name_is_the_manifest_s_unless_given(tmp_path: Path, capsys):
    create(tmp_path, capsys)
    assert Store(tmp_path / "study").methods == METHODS
    manifests = [
        f"--manifest=m{n}={tmp_path}/images_of_{m}/manifest.jsonl" for n, m in enumerate(METHODS)
    ]
    arguments = ["study", "create", "--protocol", str(tmp_path / "protocol.yaml"), *manifests]
    assert main([*arguments, "--out", str(tmp_path / "named")]) == 0
    assert Store(tmp_path / "named").methods == ("m0", "m1")


@pytest.mark.parametrize("url", ["study.example.org", "ftp://x", "https://x/study", "http://"])
def test_an_address_that_links_cannot_begin_with_is_told(url: str, tmp_path: Path, capsys):
    arguments = ["--protocol", "x", "--manifest", "x", "--out", str(tmp_path / "study")]
    for command in (["create", *arguments], ["serve", str(tmp_path)]):
        with pytest.raises(SystemExit) as left:
            main(["study", *command, "--url", url])
        assert left.value.code == 2
        assert f"--url: {url!r} must be http:// or https://" in capsys.readouterr().err
