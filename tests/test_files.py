"""Files that are read whole or not at all."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.files import keep_first, replace_file, write_json


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path):
    values = {"a": math.nan, "b": [1.5, math.inf, (math.nan, 2)], "c": {"d": -math.inf, "e": "nan"}}
    write_json(tmp_path / "a.json", values)

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refused)
    assert read == {"a": None, "b": [1.5, None, [None, 2]], "c": {"d": None, "e": "nan"}}


def test_file_that_is_there_is_not_replaced(tmp_path: Path):
    for content in (b"first", b"second"):
        keep_first(tmp_path / "new" / "a.png", content)
    assert [path.read_bytes() for path in (tmp_path / "new").iterdir()] == [b"first"]


def test_two_that_write_a_file_at_once_do_not_meet(tmp_path: Path):
    """Threads; and so processes of one number, which two nodes may have."""
    path, both = tmp_path / "a", Barrier(2, timeout=30)

    def make(text: str) -> None:
        def write(part: Path) -> None:
            part.write_text(text)
            both.wait()
            assert part.read_text() == text
            both.wait()

        replace_file(path, write)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(make, ["one", "another"]))
    assert path.read_text() in ("one", "another")
    assert os.listdir(tmp_path) == ["a"]


def test_cuda_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"^--device cuda: there is no GPU .* use --device cpu$"):
        choose_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
