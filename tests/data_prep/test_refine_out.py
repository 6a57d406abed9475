"""`prepare refine --overwrite`: where it may not write; that is known before SAM is loaded."""

from pathlib import Path

import pytest
from shard_folders import write_shards

from anyscene.errors import InputError
from data_prep.parts import Part
from data_prep.refine import Settings, prepare_refined

SETTINGS = Settings("not loaded", device="cpu")


def all_bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("parts", [1, 2])
def test_the_source_is_not_overwritten(parts: int, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "source", parts=parts, samples=4)
    link = tmp_path / "link"
    link.symlink_to(folder)
    before = all_bytes(folder)
    for out in (folder, link):
        for shards in (str(folder), f"file://{folder}"):
            with pytest.raises(InputError, match="has the shards that are read"):
                prepare_refined(shards, out, SETTINGS, part=Part(0, parts), overwrite=True)
    assert all_bytes(folder) == before


@pytest.mark.parametrize("part", [Part(2, 2), Part(-1, 2), Part(0, 0)])
def test_an_impossible_part_is_refused(part: Part, tmp_path: Path) -> None:
    source, out = write_shards(tmp_path / "source", samples=2), tmp_path / "out"
    with pytest.raises(InputError, match="the index must be from 0"):
        prepare_refined(str(source), out, SETTINGS, part=part, overwrite=True)
    assert not out.exists()
