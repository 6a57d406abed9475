"""Captions of a folder's images, out of every form of file."""

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from anyscene.errors import InputError
from data_prep.captions import assign_captions, read_captions, read_lines

ROWS = [("a.jpg", "an apple, on a table"), ("deep/b.jpg", ' a "boat"\n at sea '), ("a.jpg", "red")]
EXPECTED = {"a.jpg": ("an apple, on a table", "red"), "deep/b.jpg": ('a "boat" at sea',)}


def write(folder: Path, form: str) -> Path:
    """The rows in one of the forms."""
    path = folder / f"captions.{form.split()[0]}"
    records = [{"file_name": name, "caption": caption, "other": 1} for name, caption in ROWS]
    if form == "json names":
        path.write_text(
            json.dumps({"a.jpg": [ROWS[0][1], ROWS[2][1], " "], ROWS[1][0]: ROWS[1][1]})
        )
    elif form == "json records":
        path.write_text(json.dumps(records))
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as file:  # as spreadsheets write it
            writer = csv.DictWriter(file, ["file_name", "caption", "other"])
            writer.writeheader()
            writer.writerows(records)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        if form == "parquet lists":
            records = [{"file_name": name, "captions": [*row]} for name, row in EXPECTED.items()]
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("form", ["json names", "json records", "csv", "parquet", "parquet lists"])
def test_captions_of_every_form_are_the_same(form: str, tmp_path: Path) -> None:
    assert read_captions(write(tmp_path, form)) == EXPECTED


def test_a_name_without_captions_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"a": [], "b": "  ", "./c": "see"}))
    assert read_captions(path) == {"c": ("see",)}


def test_a_text_has_a_caption_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one  dog\n\n two dogs\r\n", newline="")
    assert read_lines(tmp_path / "a.txt") == ("one dog", "two dogs")
    assert read_lines(tmp_path / "b.txt") == ()
    (tmp_path / "bom.txt").write_text("one dog\n", encoding="utf-8-sig")
    assert read_lines(tmp_path / "bom.txt") == ("one dog",)
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="utf-8"):
        read_lines(tmp_path / "c.txt")


def test_images_find_captions_by_path_or_by_a_name_that_is_theirs_alone() -> None:
    images = ["images/a.jpg", "x/b.png", "y/b.png", "images/c.v2.jpg"]
    captions = {"a": ("A",), "y/b": ("B",), "b.png": ("either",), "c.v2.jpg": ("C",)}
    captions["d"] = ("of none", "nor this")
    rejected: Counter[str] = Counter()
    assert assign_captions(images, captions, rejected) == [("A",), (), ("B",), ("C",)]
    assert rejected == {"caption: its name is not that of one image": 3}
    both = {"a": ("stem",), "a.jpg": ("name",)}
    assert assign_captions(["a.jpg"], both, Counter()) == [("name",)]


def test_half_of_a_character_is_left_out_of_a_caption(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text('{"a": "a dog \\ud83d", "b": "\\ud83d\\udc15", "c": "\\ud83d"}')
    assert read_captions(path) == {"a": ("a dog",), "b": ("\U0001f415",)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.yaml", "", "must be JSON, CSV or parquet"),
        ("captions.json", "{", "holds no captions by name"),
        ("captions.json", "3", "neither {name: caption} nor a list of records"),
        ("captions.json", '{"a": 1}', "1 is neither a caption nor a list of them"),
        ("captions.json", '{"a": ["x", null]}', "is neither a caption nor a list of them"),
        ("captions.json", '["a"]', "'a' is no record"),
        ("captions.json", '[{"file_name": "a"}]', "it has file_name; needed are file_name and"),
        ("captions.json", '[{"file_name": 1, "caption": "x"}]', "1 is not an image's name"),
        ("captions.csv", "name,text\na,b\n", "it has name, text; needed are file_name and caption"),
        ("captions.csv", "", "it has no columns"),
        ("captions.csv", 'file_name,caption\na,"b', "holds no captions by name"),
        (
            "captions.csv",
            "file_name,caption\na,b\nc,a dog, asleep\n",
            "line 3 has more fields than",
        ),
        ("captions.csv", b"file_name,caption\na,caf\xe9\n", "holds no captions by name"),
        ("captions.parquet", "no parquet", "holds no captions by name"),
    ],
)
def test_another_form_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        read_captions(path)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_a_missing_file_and_a_missing_library_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"no such file: .*none\.json"):
        read_captions(tmp_path / "none.json")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "captions.parquet").touch()
    with pytest.raises(InputError, match=r"pip install 'anyscene\[parquet\]'"):
        read_captions(tmp_path / "captions.parquet")
