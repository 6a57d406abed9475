"""Which images a folder has, what tells their foreground, and what they are called."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from anyscene.errors import InputError
from data_prep.folder_listing import Entry, list_folder


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_masks_and_json_belong_to_the_image_of_their_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "masks/a.png", "deep/images/a.png", "deep/masks/a.png")
    touch(tmp_path, "b.webp", "b_mask.png", "c.JPEG", "c.mask.png", "d.jpg", "d.json", "e.png")
    touch(tmp_path, "d.txt", "notes.md", ".hidden.jpg", ".cache/f.jpg", "masks/g.png", "b.v2.jpg")
    entries, _ = list_folder(tmp_path)
    assert [(entry.image, entry.mask, entry.annotations) for entry in entries] == [
        ("b.v2.jpg", None, None),
        ("b.webp", "b_mask.png", None),
        ("c.JPEG", "c.mask.png", None),
        ("d.jpg", None, "d.json"),
        ("deep/images/a.png", "deep/masks/a.png", None),
        ("e.png", None, None),
        ("images/a.jpg", "masks/a.png", None),
        ("masks/g.png", None, None),  # no image's mask: so it is an image that has none
    ]
    assert [entry.name for entry in entries][4:7] == ["deep/a", "e", "a"]


def test_endings_count_in_capitals_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "a_mask.PNG", "a.TXT", "B.jpg", "B.MASK.PNG", "C.WebP", "C.Json")
    touch(tmp_path, "images/d.jpg", "masks/d.PNG", "e.jpg", "E_mask.png")
    entries, _ = list_folder(tmp_path)
    assert [(entry.image, entry.mask, entry.annotations, entry.text) for entry in entries] == [
        ("B.jpg", "B.MASK.PNG", None, None),
        ("C.WebP", None, "C.Json", None),
        ("E_mask.png", None, None, None),  # of E, not of e
        ("a.JPG", "a_mask.PNG", None, "a.TXT"),
        ("e.jpg", None, None, None),
        ("images/d.jpg", "masks/d.PNG", None, None),
    ]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "a.jpg", "a_mask.png")
    touch(tmp_path / "set", "b.jpg")
    for name, target in (("more", tmp_path / "elsewhere"), ("again", tmp_path / "elsewhere")):
        (tmp_path / "set" / name).symlink_to(target)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)  # in which the set lies
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "loop.png").symlink_to("loop.png")
    entries, _ = list_folder(tmp_path / "set")
    found = [("again/a.jpg", "again/a_mask.png"), ("b.jpg", None), ("loop.png", None)]
    assert [(entry.image, entry.mask) for entry in entries] == found


def test_a_folder_that_cannot_be_read_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.jpg", "closed/b.jpg")
    scan = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="closed"):  # one line of the command
        list_folder(tmp_path)


def test_the_checksum_is_of_the_images_files_names_and_sizes(tmp_path: Path) -> None:
    names = ("a.jpg", "a_mask.png", "a.txt", "b.jpg", "b.json")
    known = list_folder(touch(tmp_path / "x", *names))[1]
    assert list_folder(touch(tmp_path / "y", *names, "shards/manifest.json", "c.txt"))[1] == known
    for name in names:
        folder = touch(tmp_path / name, *names)
        (folder / name).write_text("longer than before")
        assert list_folder(folder)[1] != known, name


@pytest.mark.parametrize(
    ("image", "key", "image_id"),
    [
        ("images/000000000790.jpg", "000000000790", 790),
        ("dog_01-a.png", "dog_01-a", None),
        ("x/dog.v2.png", "x_dog_v2-", None),
        ("Straße 1.jpg", "Stra_e_1-", None),
        ("n" * 80 + ".jpg", "n" * 55 + "-", None),
    ],
)
def test_a_key_is_the_name_where_shards_can_bear_it(
    image: str, key: str, image_id: int | None
) -> None:
    entry = Entry(image, None, None)
    assert entry.key.startswith(key)
    assert len(entry.key) - len(key) == (8 if key.endswith("-") else 0)
    assert len(entry.key) <= 64
    assert "." not in entry.key
    if image_id is None:
        assert 0 <= entry.image_id < 2**48
    else:
        assert entry.image_id == image_id


def test_cleaned_names_stay_apart() -> None:
    entries = [Entry(f"{name}.jpg", None, None) for name in ("a b", "a.b", "a/b", "a_b", "ä_b")]
    assert len({entry.key for entry in entries}) == 5
    assert len({entry.image_id for entry in entries}) == 5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.md"], r"holds no image: none ends in \.jpeg \.jpg \.png \.webp"),
        (["a.jpg", "a.png"], r"a\.jpg and a\.png would both be 'a'; rename or move one"),
        (["images/a.jpg", "a.jpg"], "would both be 'a'"),
        (["a.jpg", "a_mask.png", "a.mask.png"], "has two masks, a_mask.png and a.mask.png"),
        (["a.jpg", "a_mask.PNG", "a_mask.png"], "has two masks, a_mask.PNG and a_mask.png"),
        (["a.jpg", "a.TXT", "a.txt"], r"has two \.txt files, a\.TXT and a\.txt; leave one there"),
    ],
)
def test_a_folder_that_is_not_clear_is_one_line(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        list_folder(touch(tmp_path, *names))


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_folder(tmp_path / "none")
