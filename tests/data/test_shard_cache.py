"""Fetched shards: once for all processes, never half, within the bound, and with an index."""

import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from shard_files import write_shards
from shard_server import serve

from anyscene.data import fetching
from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import ShardManifest, ShardRecord
from anyscene.data.shard_cache import ShardCache
from anyscene.errors import InputError
from anyscene.files import sha256_of


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_RETRY_SECONDS", 0.01)


@pytest.fixture
def manifest(tmp_path: Path) -> ShardManifest:
    """Six shards of one size in bytes, each of other samples."""
    manifest = write_shards(tmp_path / "remote", [3] * 6)
    assert len({record.bytes for record in manifest.shards}) == 1
    return manifest


def cache_of(tmp_path: Path, manifest: ShardManifest, shards: float) -> ShardCache:
    """A cache that has room for so many of the manifest's shards."""
    return ShardCache(tmp_path / "cache", int(shards * manifest.shards[0].bytes))


def names(cache: ShardCache, manifest: ShardManifest) -> list[int]:
    """The numbers of the shards that a cache holds."""
    held = {path.stem for path in cache.folder.glob("*.tar")}
    return [n for n, record in enumerate(manifest.shards) if record.sha256 in held]


def test_a_shard_is_fetched_once_with_an_index(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 6)
    record = manifest.shards[2]
    with serve(manifest.root) as server:
        paths = [cache.path(server.url, record) for _ in range(3)]
        assert server.requests == {record.name: 1}
    assert len(set(paths)) == 1
    assert sha256_of(paths[0]) == record.sha256
    index = ShardIndex.read(index_path(paths[0]), record)
    assert index.keys == ["s000006", "s000007", "s000008"]
    assert index.checksums is not None


def test_a_shard_that_is_known_needs_no_source(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 6)
    path = cache.path(f"pipe:cat {manifest.root}/{{name}}", manifest.shards[0])
    assert cache.path("https://another.invalid/copy", manifest.shards[0]) == path


def fetch_all(cache: ShardCache, url: str, records: list[ShardRecord]) -> None:
    for record in records:
        assert sha256_of(cache.path(url, record)) == record.sha256


def test_processes_share_what_one_of_them_fetches(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 6)
    context = multiprocessing.get_context("fork")
    with serve(manifest.root) as server:
        arguments = (cache, server.url, manifest.shards)
        workers = [context.Process(target=fetch_all, args=arguments) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert server.requests == {record.name: 1 for record in manifest.shards}
    assert list(cache.folder.glob("*.part")) == []


def test_processes_in_a_cache_that_is_too_small_still_read_whole_shards(
    tmp_path: Path, manifest: ShardManifest
) -> None:
    cache = cache_of(tmp_path, manifest, 2)
    context = multiprocessing.get_context("fork")
    with serve(manifest.root) as server:
        arguments = (cache, server.url, manifest.shards * 3)
        workers = [context.Process(target=open_all, args=arguments) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 3
    assert len(names(cache, manifest)) <= 2 + 3


def open_all(cache: ShardCache, url: str, records: list[ShardRecord]) -> None:
    """Open each shard as a reader does: again, where another process removed it meanwhile."""
    for record in records:
        for _ in range(20):
            try:
                data = cache.path(url, record).read_bytes()
                break
            except FileNotFoundError:
                continue
        assert len(data) == record.bytes


def test_the_shard_used_longest_ago_goes_first(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 3.5)
    source = f"pipe:cat {manifest.root}/{{name}}"
    for number in (0, 1, 2):
        path = cache.path(source, manifest.shards[number])
        os.utime(path, (number, number))
    cache.path(source, manifest.shards[0])
    with path.open("rb") as still_open:  # shard 2
        cache.path(source, manifest.shards[3])
        assert names(cache, manifest) == [0, 2, 3]
        cache.path(source, manifest.shards[4])
        assert names(cache, manifest) == [0, 3, 4]
        assert len(still_open.read()) == manifest.shards[2].bytes
    assert {path.stem.removesuffix(".tar") for path in cache.folder.glob("*.index")} == {
        manifest.shards[number].sha256 for number in (0, 3, 4)
    }


def test_what_a_killed_process_left_is_removed(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 1)
    cache.folder.mkdir()
    old, new = (cache.folder / f"{name}.tar.1-1.part" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(bytes(10))
    os.utime(old, (0, time.time() - 7200))
    cache.path(f"pipe:cat {manifest.root}/{{name}}", manifest.shards[0])
    assert not old.exists()
    assert new.exists()


def test_a_killed_process_does_not_keep_others_waiting(
    tmp_path: Path, manifest: ShardManifest
) -> None:
    cache = cache_of(tmp_path, manifest, 6)
    record = manifest.shards[0]
    with serve(manifest.root) as server:
        server.faults[record.name] = ["hang"]
        arguments = (cache, server.url, [record])
        process = multiprocessing.get_context("fork").Process(target=fetch_all, args=arguments)
        process.start()
        while not server.requests[record.name]:
            time.sleep(0.01)
        process.kill()
        process.join()
        fetch_all(cache, server.url, [record])
        assert server.requests[record.name] == 2


def test_a_shard_larger_than_the_cache_is_an_error(tmp_path: Path, manifest: ShardManifest) -> None:
    cache = cache_of(tmp_path, manifest, 0.5)
    with pytest.raises(InputError, match=r"shard-000.tar of 'pipe:.*raise data.cache_gb"):
        cache.path(f"pipe:cat {manifest.root}/{{name}}", manifest.shards[0])


@pytest.mark.parametrize("fault", ["flip", "short"])
def test_wrong_bytes_are_fetched_again_and_then_an_error(
    fault: str, tmp_path: Path, manifest: ShardManifest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    cache = cache_of(tmp_path, manifest, 6)
    record = manifest.shards[1]
    with serve(manifest.root) as server:
        server.faults[record.name] = [fault]
        cache.path(server.url, record)
        assert server.requests[record.name] == 2
        assert f"{record.name} of '{server.url}' cannot be fetched: DamageError: " in caplog.text
        (manifest.root / manifest.shards[0].name).write_bytes(b"another file")
        with pytest.raises(InputError, match=r"12 bytes came, [0-9]+ are in the manifest"):
            cache.path(server.url, manifest.shards[0])
    assert names(cache, manifest) == [1]
    assert list(cache.folder.glob("*.part")) == []


def test_a_shard_that_only_the_manifest_knows(tmp_path: Path, manifest: ShardManifest) -> None:
    (manifest.root / manifest.shards[0].name).unlink()
    cache = cache_of(tmp_path, manifest, 6)
    with (
        serve(manifest.root) as server,
        pytest.raises(InputError, match=r"shard-000.tar of 'http.*' does not exist, but the man"),
    ):
        cache.path(server.url, manifest.shards[0])
