"""Manifests: what was appended is read back, whatever a crash left at the end."""

import json
from pathlib import Path
from typing import Any

import pytest

from anyscene.errors import DamageError, InputError
from anyscene.manifest import (
    MANIFEST_VERSION,
    WHAT_WAS_ASKED,
    GenerationLine,
    append_line,
    identity,
    read_generation_manifest,
    read_lines,
)

LINES = [{"prompt": "a mug"}, {"prompt": "a möug\nof two lines"}, {"prompt": ""}]


def line(**changes: Any) -> dict[str, Any]:
    """A generation line whose values are their names."""
    own = {name: name for name in GenerationLine.__annotations__}
    return {**own, "version": MANIFEST_VERSION, **changes}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.jsonl"
    for values in LINES:
        append_line(path, values)
    return path


def test_lines_are_read_back_in_order(manifest: Path):
    assert read_lines(manifest) == LINES
    assert manifest.read_bytes().count(b"\n") == len(LINES)


def test_a_line_torn_anywhere_is_ignored_and_replaced(manifest: Path):
    """Every length at which a crash can cut the last line."""
    whole = manifest.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for length in range(start, len(whole) - 1):
        manifest.write_bytes(whole[:length])
        assert read_lines(manifest) == LINES[:-1]
        append_line(manifest, LINES[-1])
        assert manifest.read_bytes() == whole


def test_a_last_line_without_its_newline_counts(manifest: Path):
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert read_lines(manifest) == LINES
    append_line(manifest, {"prompt": "next"})
    assert read_lines(manifest) == [*LINES, {"prompt": "next"}]


@pytest.mark.parametrize("damaged", [b'{"prompt": ', b"[1]", b"\xff"])
def test_damage_elsewhere_is_told(manifest: Path, damaged: bytes):
    lines = manifest.read_bytes().split(b"\n")
    lines[1] = damaged
    manifest.write_bytes(b"\n".join(lines))
    with pytest.raises(DamageError, match=r"line 2 of .*manifest\.jsonl"):
        read_lines(manifest)


def test_generation_manifest_of_another_kind_or_version(tmp_path: Path):
    path = tmp_path / "manifest.jsonl"
    path.write_text(json.dumps(line()) + "\n")
    assert read_generation_manifest(path) == [line()]
    for wrong, message in (
        ({key: value for key, value in line().items() if key != "sha256"}, "no 'sha256'"),
        (line(version=MANIFEST_VERSION + 1), f"version {MANIFEST_VERSION + 1}"),
    ):
        path.write_text(json.dumps(wrong) + "\n")
        with pytest.raises(InputError, match=f"line 1 .*{message}"):
            read_generation_manifest(path)
    with pytest.raises(InputError, match="no manifest"):
        read_generation_manifest(tmp_path / "other.jsonl")


def test_identity_is_of_what_was_asked_not_of_the_machine():
    assert identity(line()) == identity(line(device="cuda", threads=8, micro_batch=2, image="x"))
    different = {identity(line(**{name: ["other"]})) for name in WHAT_WAS_ASKED}
    assert len(different | {identity(line())}) == len(WHAT_WAS_ASKED) + 1
