"""Subject sets: what is read of a folder, what is built of it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from subject_photos import DREAMBOOTH, photo_folder

from anyscene.benchmark.build_subjects import SubjectSettings, build_subjects
from anyscene.benchmark.scenes import categories_of, read_benchmark
from anyscene.benchmark.subject_set import pair_templates, read_photo, read_subjects
from anyscene.cli import main
from anyscene.errors import DamageError, InputError


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_subject_set_is_built_byte_for_byte_again_and_frozen(tmp_path: Path):
    source = photo_folder(tmp_path / "photos")
    for name in ("one", "two"):
        build_subjects(source, tmp_path / name, SubjectSettings(pixels=64, pairs=1))
    first, second = (files_of(tmp_path / name) for name in ("one", "two"))
    assert first == second
    (tmp_path / "one" / "subjects" / "mug" / "00.png").write_bytes(b"other")
    with pytest.raises(DamageError, match=r"00\.png is missing or not the file"):
        read_benchmark(tmp_path / "one", check=True)


def test_scenes_name_their_subjects_and_prompts(tmp_path: Path):
    source = photo_folder(tmp_path / "photos")
    built = build_subjects(source, tmp_path / "set", SubjectSettings(pixels=64, pairs=1))
    by_id = {scene["scene_id"]: scene for scene in built.scenes}
    assert list(by_id) == ["mug-00", "mug-01", "rex-00", "mug--rex-00", "mug--rex-01"]
    assert by_id["mug-01"]["prompt"] == "a mug on the beach"
    assert by_id["mug-01"].get("subject_prompt") == "a {0} on the beach"
    assert by_id["rex-00"]["prompt"] == "a dog in a hat"
    assert by_id["mug--rex-00"]["prompt"] == "a mug and a dog in the snow"
    assert by_id["mug--rex-00"].get("subjects") == [
        {"name": "mug", "noun": "mug"},
        {"name": "rex", "noun": "dog"},
    ]
    assert categories_of(by_id["mug--rex-00"]) == ["dog", "mug"]
    assert built.subjects["mug"]["photos"] == ["subjects/mug/00.png", "subjects/mug/01.png"]
    assert built.record["real_images"] == 0


def test_canvas_is_the_cut_out_standing_on_one_line(tmp_path: Path):
    source = photo_folder(tmp_path / "photos")
    built = build_subjects(source, tmp_path / "set", SubjectSettings(pixels=64, pairs=1))
    scene = built.scenes[0]
    rgba = np.asarray(Image.open(built.folder / str(scene["canvas"])))
    numbers = np.asarray(Image.open(built.folder / str(scene["elements_map"])))
    left, top, width, height = scene["elements"][0]["box_xywh"]
    assert (rgba[..., 3] >= 128).sum() == (numbers == 1).sum() > 200
    assert abs(top + height - 0.9 * 64) <= 1
    assert left + width <= 64
    inside = rgba[numbers == 1][:, :3].astype(int)
    assert np.abs(inside - [200, 40, 40]).max() < 40  # the mug's red, nothing of the ground
    assert scene["elements"][0]["category"] == "mug"
    # rex has no mask: neither he nor the pair has a foreground
    assert [scene["canvas"] for scene in built.scenes[2:]] == [None] * 3


def test_photo_with_alpha_is_on_white_and_cut_out_by_it(tmp_path: Path):
    pixels = np.zeros((20, 30, 4), np.uint8)
    pixels[5:15, 5:20] = (10, 200, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    photo, mask = read_photo(tmp_path / "a.png")
    assert mask is not None
    assert photo.getpixel((0, 0)) == (255, 255, 255)
    assert photo.getpixel((6, 6)) == (10, 200, 30)
    assert mask.getbbox() == (5, 5, 20, 15)


def test_photo_with_opaque_alpha_is_not_cut_out(tmp_path: Path):
    Image.new("RGBA", (30, 20), (10, 200, 30, 255)).save(tmp_path / "a.png")
    photo, mask = read_photo(tmp_path / "a.png")
    assert mask is None
    assert photo.getpixel((0, 0)) == (10, 200, 30)


def test_pair_templates_leave_out_looks():
    assert pair_templates(["a {0} in the snow", "a red {0}", "a wet {0}"]) == [
        "a {0} and a {1} in the snow"
    ]


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("subjects: []", "must have `subjects:`"),
        ("subjects: {mug: {}}", "subject mug must have a noun"),
        ("subjects: {mug: {noun: mug}}", "subject mug has no prompts"),
        ("{prompts: [a mug], subjects: {mug: {noun: mug}}}", "must have {subject} in it, once"),
        ("{prompts: ['a {subject} :}'], subjects: {mug: {noun: mug}}}", "no other brace"),
        ("{prompts: ['a {subject}'], subjects: {cup: {noun: cup}}}", "subject cup has no photo"),
        ("{prompts: ['a {subject}'], subjects: {a--b: {noun: cup}}}", "it joins two names"),
        ("subjects: [", "is not YAML"),
    ],
)
def test_mistakes_in_a_list_of_subjects_are_told_in_one_line(
    yaml: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = photo_folder(tmp_path / "photos")
    (source / "subjects.yaml").write_text(yaml)
    assert main(["benchmark", "build", str(tmp_path / "set"), "--subjects", str(source)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_too_many_pairs_are_refused(tmp_path: Path):
    source = photo_folder(tmp_path / "photos")
    with pytest.raises(InputError, match=r"--pairs 2: there are 1 pairs"):
        build_subjects(source, tmp_path / "set", SubjectSettings(pixels=64, pairs=2))


def test_dreambooths_own_list_is_read():
    if not DREAMBOOTH.is_dir():
        pytest.skip(f"{DREAMBOOTH} is not here")
    subjects = {subject.name: subject for subject in read_subjects(DREAMBOOTH)}
    assert len(subjects) == 30
    assert {len(subject.prompts) for subject in subjects.values()} == {25}
    assert subjects["grey_sloth_plushie"].noun == "stuffed animal"
    assert subjects["grey_sloth_plushie"].prompts[0] == "a {0} in the jungle"
    assert "a {0} wearing a santa hat" in subjects["dog6"].prompts
    assert "a {0} wearing a santa hat" not in subjects["backpack_dog"].prompts
