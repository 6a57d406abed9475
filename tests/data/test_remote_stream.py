"""Training and validation on remote shards: the same samples, each shard fetched once."""

import logging
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import fsspec
import pytest
from shard_files import write_shards
from shard_server import ShardServer, serve
from test_datamodule import flat, module_of, train_batches

from anyscene.data import fetching
from anyscene.data.fetch_ahead import fetch_ahead
from anyscene.data.shard_cache import ShardCache
from anyscene.data.sources import open_shards
from anyscene.data.stream import Slot
from anyscene.errors import InputError

SIZES = [(16, 16), (16, 24), (16, 16)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FETCH_RETRY_SECONDS", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of 8 + 9 + 7 samples in two buckets."""
    folder = tmp_path_factory.mktemp("remote")
    for part in range(2):
        write_shards(
            folder / f"part-0000{part}-of-00002", [8, 9, 7], SIZES, prefix=f"p{part}-", indexed=True
        )
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[ShardServer]:
    with serve(folder) as server:
        yield server


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2)])
def test_remote_shards_give_the_batches_of_local_ones(
    ranks: int, workers: int, folder: Path, server: ShardServer, tmp_path: Path
) -> None:
    """All processes of the ranks share the cache: every shard is fetched once, or never."""
    local = train_batches(str(folder), 9, 1, val=None)
    remote = train_batches(server.url, 9, ranks, workers=workers, val=None, cache_dir=str(tmp_path))
    for name in ("key", "counter", "prompt"):
        assert flat(remote, name) == flat(local, name)
    shards = {name: n for name, n in server.requests.items() if name.endswith(".tar")}
    assert shards == dict.fromkeys(("shard-000.tar", "shard-001.tar", "shard-002.tar"), 2)


def test_local_and_remote_data_sets_mix(folder: Path, server: ShardServer, tmp_path: Path) -> None:
    write_shards(tmp_path / "m", [20], prefix="m")
    options = {"mix": {str(tmp_path / "m"): 1.0}, "cache_dir": str(tmp_path / "cache")}
    local = train_batches(str(folder), 8, 1, **options)
    remote = train_batches(server.url, 8, 1, workers=1, **options)
    assert flat(remote, "key") == flat(local, "key")
    assert {key[0] for keys in flat(remote, "key") for key in keys} == {"p", "m"}


@pytest.mark.parametrize("source", ["server", "command", "memory"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (3, 0)])
def test_validation_reads_each_remote_sample_once(
    source: str, ranks: int, workers: int, folder: Path, server: ShardServer, tmp_path: Path
) -> None:
    """In two buckets and two parts; a command cannot list parts, so it prints one of them."""
    location, count = server.url, 48
    if source == "command":
        location, count = f"pipe:cat {folder}/part-00000-of-00002/{{name}}", 24
    if source == "memory":
        memory = fsspec.filesystem("memory")
        memory.put(str(folder), "/validation", recursive=True)
        location = "memory://validation"
    keys = []
    for rank in range(ranks):
        loader = module_of(
            "unused", rank, ranks, val=location, workers=workers, cache_dir=str(tmp_path)
        ).val_dataloader()
        keys += [key for batch in loader for key in batch["key"]]
    assert len(keys) == len(set(keys)) == count


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreachable_shard_ends_the_run_with_its_name(
    workers: int, server: ShardServer, tmp_path: Path
) -> None:
    server.faults["shard-001.tar"] = ["500"] * 99
    loader = module_of(
        server.url, workers=workers, val=None, cache_dir=str(tmp_path)
    ).train_dataloader()
    with pytest.raises(InputError, match=r"/shard-001.tar of 'http.*' cannot be .*4 tries failed$"):
        list(islice(loader, 40))


def test_damage_in_the_cache_is_seen(server: ShardServer, tmp_path: Path) -> None:
    options = {"val": server.url, "cache_dir": str(tmp_path), "max_bad_share": 1.0}
    read = [len(batch["key"]) for batch in module_of("unused", **options).val_dataloader()]
    assert sum(read) == 48
    for path in tmp_path.glob("*.tar"):
        data = bytearray(path.read_bytes())
        data[data.index(b"IDAT") + 10] ^= 1
        path.write_bytes(data)
    batches = list(module_of("unused", **options).val_dataloader())
    assert sum(len(batch["damage"]) for batch in batches) == 6
    assert sum(len(batch["key"]) for batch in batches) == 42


def test_shards_of_coming_batches_are_fetched_meanwhile(folder: Path, tmp_path: Path) -> None:
    location = f"pipe:cat {folder}/part-00000-of-00002/{{name}}"
    shards = open_shards(location, ShardCache(tmp_path, 10**9))
    batches = [[Slot(n, 0, shard, 0)] for n, shard in enumerate((0, 0, 1, 2))]
    ahead = fetch_ahead(shards, iter(batches))
    assert next(ahead) == batches[0]
    while len(list(tmp_path.glob("*.tar"))) < 3:
        time.sleep(0.01)
    assert list(ahead) == batches[1:]


def test_a_cache_smaller_than_what_is_read_at_a_time_is_warned_of(
    server: ShardServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    options = {"val": None, "cache_dir": str(tmp_path)}
    module_of(server.url, **options).train_dataloader()
    assert "data.cache_gb" not in caplog.text
    assert "no index" not in caplog.text
    module_of(server.url, cache_gb=1e-5, **options).train_dataloader()
    assert "data.cache_gb=1e-05 is less than the " in caplog.text


def test_shards_without_an_index_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_shards(tmp_path / "bare", [4, 4])
    module_of(str(tmp_path / "bare")).train_dataloader()
    assert f"{tmp_path}/bare: 2 of 2 shards have no index: their headers are" in caplog.text
    caplog.clear()
    write_shards(tmp_path / "indexed", [4, 4], indexed=True)
    module_of(str(tmp_path / "indexed")).train_dataloader()
    assert "no index" not in caplog.text
