"""A cache made again, killed, or of damaged shards."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from shard_folders import Members, write_manifest, write_shards
from small_cache import damaged_source, samples_of
from small_coco import file_bytes
from tiny import tiny_base

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep import cache, shard_by_shard
from data_prep.cache import Settings, prepare_cache
from data_prep.parts import Part
from data_prep.verify import verify


@pytest.mark.parametrize("killed_in", ["the second shard", "the journal after it"])
def test_a_killed_run_is_continued_to_the_same_bytes(
    killed_in: str,
    cache_source: Path,
    whole_cache: Path,
    cache_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "encode_scenes" if killed_in == "the second shard" else "_write_shard"
    module = cache if name == "encode_scenes" else shard_by_shard
    calls = 0
    original = getattr(module, name)

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if name == "encode_scenes" and calls == 2:
            raise KeyboardInterrupt
        result = original(*arguments)
        if name == "_write_shard" and calls == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(str(cache_source), tmp_path, cache_settings)
    assert not (tmp_path / "manifest.json").exists()
    calls = 100
    before = (tmp_path / "train-000000.tar").stat().st_mtime_ns
    prepare_cache(str(cache_source), tmp_path, cache_settings)
    assert calls == 103  # the first shard is not made again
    assert (tmp_path / "train-000000.tar").stat().st_mtime_ns == before
    assert file_bytes(tmp_path) == file_bytes(whole_cache)


@pytest.mark.parametrize("lost", [(), ("train-000002.tar",)])
def test_a_cache_that_names_the_whole_base_stays_one(
    lost: tuple[str, ...],
    cache_source: Path,
    whole_cache: Path,
    cache_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As earlier versions made them: finished, and killed while lost shards were made again."""
    out = tmp_path / "out"
    shutil.copytree(whole_cache, out)
    sha256 = name_whole_base(out, cache_settings)["sha256"]
    before = file_bytes(out)
    for name in lost:
        (out / name).unlink()
        with monkeypatch.context() as patch:
            patch.setattr(cache, "encode_scenes", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prepare_cache(str(cache_source), out, cache_settings)
        assert not (out / "manifest.json").exists()
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=f"base sha256 is {sha256} there"):
        prepare_cache(str(cache_source), out, replace(cache_settings, base=str(other)))
    prepare_cache(str(cache_source), out, cache_settings)
    assert file_bytes(out) == before
    prepare_cache(str(cache_source), out, cache_settings, overwrite=True)
    assert file_bytes(out) == file_bytes(whole_cache)


def name_whole_base(folder: Path, settings: Settings) -> dict[str, Any]:
    """Make a cache one of an earlier version; returns what its manifest has of the base now."""
    manifest = ShardManifest.read(folder)
    base = {name: value for name, value in manifest.base.items() if name != "encoder_sha256"}
    base["sha256"] = cache.load_base(settings.base, None, None).sha256()
    write_manifest(folder, replace(manifest, base=base))
    return base


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_part_is_of_the_version_of_the_others(
    overwrite: bool, cache_source: Path, cache_settings: Settings, tmp_path: Path
) -> None:
    """They were not joined where a job array had begun before an upgrade."""
    first, second = Part(0, 2), Part(1, 2)
    prepare_cache(str(cache_source), tmp_path, cache_settings, part=first)
    base = name_whole_base(first.folder(tmp_path), cache_settings)
    options: dict[str, Any] = {"part": second, "overwrite": overwrite}
    prepare_cache(str(cache_source), tmp_path, cache_settings, **options)
    assert ShardManifest.read(tmp_path).base == base


def test_a_lost_shard_is_made_again(
    cache_source: Path, whole_cache: Path, cache_settings: Settings, tmp_path: Path
) -> None:
    prepare_cache(str(cache_source), tmp_path, cache_settings)
    (tmp_path / "train-000002.tar").unlink()
    prepare_cache(str(cache_source), tmp_path, cache_settings)
    assert file_bytes(tmp_path) == file_bytes(whole_cache)


def test_a_finished_folder_is_kept_and_another_one_is_not_touched(
    cache_source: Path, whole_cache: Path, cache_settings: Settings, tmp_path: Path, capsys: Any
) -> None:
    before = file_bytes(whole_cache)
    prepare_cache(str(cache_source), whole_cache, cache_settings)
    assert "7 samples, made with the same arguments, are there already" in capsys.readouterr().out
    with pytest.raises(InputError, match="base dtype is fp32 there, fp16 asked for"):
        prepare_cache(str(cache_source), whole_cache, replace(cache_settings, dtype="fp16"))
    assert file_bytes(whole_cache) == before
    other = write_shards(tmp_path / "other", samples=3)
    prepare_cache(str(cache_source), tmp_path / "out", cache_settings)
    with pytest.raises(InputError, match=r"source_manifest_sha256 is .*--overwrite"):
        prepare_cache(str(other), tmp_path / "out", cache_settings)
    with pytest.raises(InputError, match="has the shards that are read"):
        prepare_cache(str(other), other, cache_settings, overwrite=True)
    prepare_cache(str(other), tmp_path / "out", cache_settings, overwrite=True)
    assert list(samples_of(tmp_path / "out")) == list(samples_of(other))
    assert not list((tmp_path / "out").glob("*-000002*"))


def test_an_overwrite_removes_the_manifest_before_what_it_names(
    cache_source: Path,
    whole_cache: Path,
    cache_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(whole_cache, tmp_path, dirs_exist_ok=True)
    removed: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    settings = replace(cache_settings, dtype="fp16")
    prepare_cache(str(cache_source), tmp_path, settings, overwrite=True)
    assert removed[0] == "manifest.json"
    assert {"train-000000.tar", "train-000003.tar.index"} <= set(removed)


def flip_a_byte(members: Members) -> None:
    data = members["scene.png"]
    members["scene.png"] = data[:400] + bytes([data[400] ^ 255]) + data[401:]


def test_damaged_samples_are_left_out_and_counted(
    cache_source: Path, cache_settings: Settings, tmp_path: Path, capsys: Any
) -> None:
    def change(samples: list[tuple[str, Members]]) -> None:
        samples[0][1].pop("elements.png")
        flip_a_byte(samples[1][1])

    folder = damaged_source(cache_source, tmp_path / "source", change)
    manifest = prepare_cache(str(folder), tmp_path / "out", cache_settings)
    theirs = ShardManifest.read(folder)
    assert manifest.rejected == theirs.rejected | {
        "damaged sample: elements.png is missing": 1,
        "damaged sample: scene.png cannot be decoded": 1,
    }
    assert [record.name for record in manifest.shards] == [r.name for r in theirs.shards[1:]]
    assert manifest.samples == 5
    assert verify(tmp_path / "out", workers=1).damages == []
    printed = capsys.readouterr().out
    assert "left out damaged sample: elements.png is missing (1), damaged sample: sc" in printed


def test_a_killed_run_keeps_count_of_the_damage(
    cache_source: Path, cache_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(samples: list[tuple[str, Members]]) -> None:
        for _, members in samples:
            members.pop("mask.png")

    folder = damaged_source(cache_source, tmp_path / "source", change)
    expected = prepare_cache(str(folder), tmp_path / "whole", cache_settings).rejected
    assert expected["damaged sample: mask.png is missing"] == 2

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "encode_scenes", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_cache(str(folder), tmp_path / "out", cache_settings)
    assert prepare_cache(str(folder), tmp_path / "out", cache_settings).rejected == expected
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "whole")


def test_the_command_line(
    cache_source: Path, whole_cache: Path, tiny_base_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    command = [
        "prepare",
        "cache",
        str(cache_source),
        "--base",
        str(tiny_base_folder),
        "--device",
        "cpu",
    ]
    out = ["--out", str(tmp_path / "out")]
    assert main([*command, *out, "--dtype", "fp32", "--batch-size", "3"]) == 0
    assert file_bytes(tmp_path / "out") == file_bytes(whole_cache)
    assert main([*command, *out]) == 2
    assert "base dtype is fp32 there, fp16 asked for" in capsys.readouterr().err
    parts = ["--shard-index", "1", "--num-shards", "2"]
    assert main([*command, "--out", str(tmp_path / "parts"), *parts]) == 0
    manifest = ShardManifest.read(tmp_path / "parts" / "part-00001-of-00002")
    assert (manifest.samples, manifest.base["dtype"]) == (3, "fp16")
