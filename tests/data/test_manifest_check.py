"""A forged `manifest.json` is one clear line, whichever of its fields is wrong and how."""

import json
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyscene.cli import main
from anyscene.data import manifest_check
from anyscene.data.sample import ShardManifest, ShardRecord
from anyscene.errors import InputError

WHOLE = ShardManifest(
    split="train",
    seed=0,
    source="drawn",
    filters={"size": 48},
    rejected={"image: unreadable": 2},
    tools={"numpy": "2"},
    samples=3,
    buckets={"48x64": 3},
    shards=[ShardRecord("train-000000.tar", 3, 9000, "0" * 64, "48x64")],
    base={"encoder_sha256": "1" * 64, "dtype": "fp16", "channels": 4, "factor": 8, "device": "cpu"},
)
NOT_WRITTEN = {"root", "source_url"}
FIELDS = [field.name for field in fields(ShardManifest) if field.name not in NOT_WRITTEN]
RECORD = [field.name for field in fields(ShardRecord)]
PLACES = [
    *((name,) for name in FIELDS),
    *(("shards", 0, name) for name in RECORD),
    *(("base", name) for name in manifest_check.CACHE),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)


def forged(place: tuple[Any, ...], value: Any) -> str:
    """The manifest's text with another value at a place."""
    values = json.loads(WHOLE.to_json())
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    return json.dumps(values)


def refused(text: str | bytes) -> str:
    """The one line."""
    with pytest.raises(InputError) as caught:
        ShardManifest.parse(text, "HERE")
    line = str(caught.value)
    assert line.startswith("HERE ")
    assert "prepare the shards again" in line
    assert "\n" not in line
    return line


def kind_of(place: tuple[Any, ...]) -> type:
    """The type that the dataclasses state for a place."""
    if place[0] == "base" and len(place) == 2:
        return type((WHOLE.base or {})[place[1]])
    stated = get_type_hints(ShardRecord if len(place) == 3 else ShardManifest)[place[-1]]
    stated = get_args(stated)[0] if isinstance(stated, UnionType) else stated
    return get_origin(stated) or stated


def test_a_whole_manifest_is_read_as_it_was_written() -> None:
    assert ShardManifest.parse(WHOLE.to_json(), "HERE") == WHOLE


def test_every_field_has_its_form() -> None:
    assert set(manifest_check.MANIFEST) == set(FIELDS)
    assert set(manifest_check.SHARD) == set(RECORD)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_value_of_another_type_is_named(place: tuple[Any, ...]) -> None:
    kind = kind_of(place)
    also = {type(None)} if place == ("base",) else set()

    @settings(max_examples=20, deadline=None)
    @given(JSON.filter(lambda value: type(value) not in {kind} | also))
    def check(value: Any) -> None:
        line = refused(forged(place, value))
        if place in (("format",), ("version",)):
            assert "expected 'anyscene-shards' version 1" in line or "version=" in line
        else:
            name = ".".join(map(str, place)).replace(".0.", "[0].")
            assert f"is damaged ({name}=" in line
            assert " must be " in line

    check()


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_no_value_gives_a_traceback(place: tuple[Any, ...]) -> None:
    """What is taken can be used: sizes are numbers, names are those of files in the folder."""

    @settings(max_examples=30, deadline=None)
    @given(JSON)
    def check(value: Any) -> None:
        try:
            manifest = ShardManifest.parse(forged(place, value), "HERE")
        except InputError:
            refused(forged(place, value))
            return
        for record in manifest.shards:
            size = tuple(map(int, record.bucket.split("x")))
            assert min(manifest.latent_shape(size) or (0,)) >= 0
            assert Path(record.name).name == record.name
        manifest.is_consistent()
        assert ShardManifest.parse(manifest.to_json(), "HERE") == manifest

    check()


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("shards", 0, "name"), "../train-000000.tar", "shards[0].name='../train-000000.tar'"),
        (("shards", 0, "name"), "..", "the name of a file in the folder"),
        (("shards", 0, "sha256"), "../../x", "64 hexadecimal digits"),
        (("shards", 0, "bucket"), "48x", "shards[0].bucket='48x' must be HEIGHTxWIDTH in pixels"),
        (("shards", 0, "bucket"), "0x48", "HEIGHTxWIDTH in pixels"),
        (("shards", 0, "samples"), -1, "shards[0].samples=-1 must be a whole number, at least 0"),
        (("shards", 0, "bytes"), 10**30, "a whole number, at least 0"),
        (("shards", 0), 5, "shards[0]=5 must be a table of names"),
        (("shards", 0, "owner"), 5, "'shards[0].owner' is no field"),
        (("split",), "a/b", "split='a/b' must be letters, digits, '-' and '_'"),
        (("samples",), True, "samples=True must be a whole number, at least 0"),
        (("rejected",), {"image: x": "3"}, "must be a table of names and whole numbers"),
        (("buckets",), {"48": 3}, "must be a table of HEIGHTxWIDTH and whole numbers"),
        (("tools",), {"numpy": 2}, "must be a table of names and texts"),
        (("base",), {}, "base.encoder_sha256 is missing"),
        (("base",), {"sha256": 5}, "base.sha256=5 must be 64 hexadecimal digits"),
        (("base",), {"sha256": "1" * 64}, "base.dtype is missing"),
        (("base", "factor"), 0, "base.factor=0 must be a whole number, at least 1"),
        (("base", "dtype"), "fp8", "base.dtype='fp8' must be fp16, bf16 or fp32"),
        (("root",), "/elsewhere", "'root' is no field"),
        (("version",), True, "version=True must be"),
        (("version",), 2, "version 2; expected 'anyscene-shards' version 1"),
    ],
)
def test_values_of_the_right_type_that_cannot_be(
    place: tuple[Any, ...], value: Any, told: str
) -> None:
    assert told in refused(forged(place, value))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_missing_field_is_named(place: tuple[Any, ...]) -> None:
    values = json.loads(WHOLE.to_json())
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    del inner[place[-1]]
    if place == ("base",):  # a manifest of before there were caches
        assert ShardManifest.parse(json.dumps(values), "HERE").base is None
    elif place in (("format",), ("version",)):
        assert "expected 'anyscene-shards' version 1" in refused(json.dumps(values))
    else:
        name = ".".join(map(str, place)).replace(".0.", "[0].")
        assert f"({name} is missing)" in refused(json.dumps(values))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{}", "", "[" * 100_000, b"\xff\xfe{"])
def test_a_text_that_is_no_manifest(text: str | bytes) -> None:
    assert refused(text).endswith("prepare the shards again")


def test_the_commands_tell_a_forged_manifest_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text(forged(("shards", 0, "bucket"), "large"))
    assert main(["prepare", "inspect", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "shards[0].bucket='large' must be HEIGHTxWIDTH" in told
    assert told.count("\n") == 1
    assert main(["prepare", "verify", str(tmp_path)]) == 1
    assert "shards[0].bucket='large' must be HEIGHTxWIDTH" in capsys.readouterr().out
