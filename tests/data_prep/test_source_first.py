"""`prepare cache` and `prepare refine` look at the source before they touch what `--out` holds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shard_folders import Members, rewrite, write_shards
from small_coco import file_bytes
from tiny_sam import tiny_sam

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep import cache, refine, shard_by_shard
from data_prep.parts import Part

Prepare = Callable[..., ShardManifest]


@pytest.fixture(scope="module")
def refine_settings(tmp_path_factory: pytest.TempPathFactory) -> refine.Settings:
    return refine.Settings(str(tiny_sam(tmp_path_factory.mktemp("sam"))), device="cpu")


@pytest.fixture(params=["cache", "refine"])
def prepare(
    request: pytest.FixtureRequest,
    cache_settings: cache.Settings,
    refine_settings: refine.Settings,
) -> Prepare:
    """(source, out, part=..., overwrite=...) of one of the two."""

    def run(source: Path, out: Path, **options: Any) -> ShardManifest:
        if request.param == "cache":
            return cache.prepare_cache(str(source), out, cache_settings, **options)
        return refine.prepare_refined(str(source), out, refine_settings, **options)

    return run


def damage(samples: list[tuple[str, Members]], count: int | None = None) -> None:
    for _, members in samples[:count]:
        members.pop("mask.png")


def damaged(folder: Path) -> Path:
    """A source of two samples, both damaged."""
    rewrite(write_shards(folder, samples=2), damage)
    return folder


def all_bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", [Part(), Part(1, 2)])
def test_without_a_whole_sample_nothing_is_overwritten(
    prepare: Prepare, part: Part, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare(write_shards(tmp_path / "whole", samples=4), out, part=part)
    before = all_bytes(out)
    assert before
    line = "has no whole sample; damaged sample: mask.png.* missing \\(2\\); see"
    source = damaged(tmp_path / "source")
    with pytest.raises(InputError, match=line):
        prepare(source, out, part=part, overwrite=True)
    assert all_bytes(out) == before


def test_without_a_whole_sample_no_folder_is_made(prepare: Prepare, tmp_path: Path) -> None:
    source = damaged(tmp_path / "source")
    for part in (Part(), Part(0, 2)):
        with pytest.raises(InputError, match="has no whole sample"):
            prepare(source, tmp_path / "out", part=part)
    assert not (tmp_path / "out").exists()


def test_a_part_may_be_without_a_whole_sample(prepare: Prepare, tmp_path: Path) -> None:
    """The first of two shards, and with it the first part, has none: the data set has some."""
    source = write_shards(tmp_path / "source", samples=4)
    rewrite(source, damage)
    manifests = [prepare(source, tmp_path / "out", part=Part(index, 2)) for index in (0, 1)]
    assert [manifest.samples for manifest in manifests] == [0, 2]
    assert ShardManifest.read(tmp_path / "out").samples == 2


def test_a_source_that_was_mended_after_a_kill_is_looked_at_again(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first shard had no whole sample when the run was killed behind it."""
    source, out = write_shards(tmp_path / "source", samples=4), tmp_path / "out"
    whole = file_bytes(source)
    written: list[int] = []
    write = shard_by_shard._write_shard

    def killed(work: Any, folder: Path, number: int, progress: Any) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        written.append(number)
        return write(work, folder, number, progress)

    manifest = source / "manifest.json"
    rewrite(source, partial(damage, count=2))
    manifest.write_bytes(whole["manifest.json"])  # the same arguments
    with monkeypatch.context() as patch:
        patch.setattr(shard_by_shard, "_write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out)
    assert written == [0]
    assert (out / "preparing.jsonl").is_file()
    for name, data in whole.items():
        (source / name).write_bytes(data)
    assert prepare(source, out).samples == 4
    assert not any("damaged" in reason for reason in ShardManifest.read(out).rejected)
