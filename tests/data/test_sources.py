"""Manifests from anywhere, and what a resume finds again of them."""

import os
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from shard_files import write_shards
from shard_server import serve

from anyscene.config import DataConfig
from anyscene.data.sample import ShardManifest
from anyscene.data.shard_cache import ShardCache
from anyscene.data.sources import (
    data_identity,
    mix_shards,
    open_mix,
    open_shards,
    read_manifest,
    shard_cache,
)
from anyscene.errors import InputError
from anyscene.files import sha256_of


def write_parts(folder: Path, samples: int = 3) -> ShardManifest:
    """A data set in two parts."""
    for part in range(2):
        write_shards(folder / f"part-{part:05d}-of-00002", [samples, samples])
    return ShardManifest.read(folder)


def test_a_manifest_is_the_same_from_anywhere(tmp_path: Path) -> None:
    local = write_shards(tmp_path, [3, 2])
    memory = fsspec.filesystem("memory")
    memory.pipe("/manifests/manifest.json", local.to_json().encode())
    with serve(tmp_path) as server:
        for location in (server.url, f"pipe:cat {tmp_path}/{{name}}", "memory://manifests"):
            remote = read_manifest(location)
            assert remote == local
            assert remote.location == location


def test_a_manifest_is_fetched_once_a_process(tmp_path: Path) -> None:
    write_shards(tmp_path, [3])
    with serve(tmp_path) as server:
        data = DataConfig(train=server.url)
        assert data_identity(data) == data_identity(data)
        open_shards(server.url, shard_cache(data))
        assert server.requests == {"manifest.json": 1}


@pytest.mark.parametrize("ending", ["", "/"])
def test_parts_on_a_server(ending: str, tmp_path: Path) -> None:
    local = write_parts(tmp_path / "remote")
    with serve(tmp_path / "remote") as server:
        shards = open_shards(server.url + ending, ShardCache(tmp_path / "cache", 10**9))
        assert shards.shards == local.shards
        for number in range(4):
            assert sha256_of(shards.path(number)) == local.shards[number].sha256


def test_mistakes_in_a_remote_folder_are_one_line(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("empty", "part", "torn")}
    for folder in folders.values():
        folder.mkdir()
    write_shards(folders["part"] / "part-00001-of-00002", [1])
    (folders["torn"] / "manifest.json").write_text('{"format": ')
    with serve(tmp_path) as server:
        for name, message in {
            "empty": "no shards in 'http.*/empty': neither manifest.json nor a list of parts",
            "part": "part-00000-of-00002/manifest.json is missing: the part is not finished",
            "torn": "torn/manifest.json is not JSON",
        }.items():
            with pytest.raises(InputError, match=message):
                read_manifest(f"{server.url}/{name}")


def test_the_cache_is_where_the_configuration_or_the_user_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shard_cache(DataConfig(cache_gb=2)) == ShardCache(
        tmp_path / ".cache" / "anyscene" / "shards", 2 * 10**9
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shard_cache(DataConfig()).folder == tmp_path / "xdg" / "anyscene" / "shards"
    assert shard_cache(DataConfig(cache_dir="here")).folder == Path("here")


def test_mixed_shards_are_numbered_one_set_after_the_other(tmp_path: Path) -> None:
    sets = [write_shards(tmp_path / name, counts) for name, counts in (("a", [3, 2]), ("b", [4]))]
    mixed = mix_shards(sets)
    assert [record.samples for record in mixed.shards] == [3, 2, 4]
    assert mixed.path(1) == tmp_path / "a" / "shard-001.tar"
    assert mixed.path(2) == tmp_path / "b" / "shard-000.tar"
    assert mixed.shards[2].name == f"{tmp_path}/b/shard-000.tar"
    assert not mixed.fetched


def test_cached_and_uncached_shards_do_not_mix(tmp_path: Path) -> None:
    scenes = write_shards(tmp_path / "scenes", [3])
    (tmp_path / "cached").mkdir()
    base = {"encoder_sha256": "0" * 64, "dtype": "fp16", "channels": 4, "factor": 8}
    cached = replace(scenes, base=base)
    (tmp_path / "cached" / "manifest.json").write_text(cached.to_json())
    names = [str(tmp_path / name) for name in ("scenes", "cached")]
    for train, other in (names, names[::-1]):
        data = DataConfig(train=train, mix={other: 1.0})
        with pytest.raises(InputError, match=r"data.mix: '.*' holds .*; mix shards of one kind"):
            open_mix(data, shard_cache(data))
    same = DataConfig(train=names[1], mix={names[1]: 0.5})
    assert [weight for _, weight in open_mix(same, shard_cache(same))] == [0.5]


def test_the_identity_of_the_data_is_its_contents(tmp_path: Path) -> None:
    manifests = [write_shards(tmp_path / name, [n + 1]) for n, name in enumerate("abc")]
    a, b, c = (str(manifest.root) for manifest in manifests)
    identity = data_identity(DataConfig(train=a, mix={b: 2.0}))
    assert identity["sha256 of data.train's manifest"] == sha256_of(tmp_path / "a/manifest.json")
    os.rename(a, tmp_path / "moved")
    assert identity == data_identity(DataConfig(train=str(tmp_path / "moved"), mix={b: 2.0}))
    for mix in ({}, {b: 1.0}, {c: 2.0}, {b: 2.0, c: 1.0}):
        assert identity != data_identity(DataConfig(train=str(tmp_path / "moved"), mix=mix))
    assert data_identity(DataConfig(train=a))["sha256 of data.train's manifest"] is None
