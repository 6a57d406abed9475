"""Loader processes: what they read and decode, what memory they take, how they are started."""

import subprocess
import sys
from collections import deque
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from child_process import child_process
from shard_files import Members, png, write_shards
from test_datamodule import flat, module_of, train_batches

from anyscene.data import reader, transforms
from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import ShardManifest
from anyscene.data.stream import Slot

PREFETCH_FACTOR = 2
"""Batches that a worker of a `DataLoader` makes ahead."""

START_BYTES = 1_000_000
"""What a worker may read to start, of modules and settings."""

SIDE = 128


def large_scene(key: str, members: Members) -> Members:
    """A scene that does not compress: 49 kB."""
    noise = np.random.default_rng(int(key[1:])).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return members | {"scene.png": png(noise)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ShardManifest:
    """Ten shards of 20 samples: 50 global batches of 4 an epoch."""
    folder = tmp_path_factory.mktemp("large")
    return write_shards(folder, [20] * 10, [(SIDE, SIDE)] * 10, large_scene, indexed=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ShardManifest:
    """Two shards of 20 samples. Mixed in, they give one of the four of a batch, and begin their
    second pass with step 40."""
    folder = tmp_path_factory.mktemp("other")
    sizes = [(SIDE, SIDE)] * 2
    return write_shards(folder, [20] * 2, sizes, large_scene, prefix="m", indexed=True)


MIXED = pytest.mark.parametrize("mixed", [False, True], ids=["alone", "mixed"])


def mix_of(mixed: bool, other: ShardManifest) -> dict[str, Any]:
    return {"mix": {str(other.root): 0.25}} if mixed else {}


def sample_bytes(manifest: ShardManifest, key: str) -> int:
    """Bytes from the first member of a sample to the end of its last."""
    number = int(key[1:])
    record = manifest.shards[number // 20]
    index = ShardIndex.read(index_path(manifest.root / record.name), record)
    spans = list(index.members(number % 20))
    return spans[-1][1] + spans[-1][2] - spans[0][1]


def index_bytes(manifest: ShardManifest) -> int:
    paths = [index_path(manifest.root / record.name) for record in manifest.shards]
    return sum(path.stat().st_size for path in paths)


@MIXED
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_read_no_byte_that_they_do_not_deliver(
    workers: int, mixed: bool, manifest: ShardManifest, other: ShardManifest
) -> None:
    """By the kernel's count, from a late step on: the samples, once, and the indexes."""
    ahead = workers * PREFETCH_FACTOR
    root, mix = str(manifest.root), mix_of(mixed, other)
    expected = flat(train_batches(root, 40 + 8 + ahead, 1, **mix), "key")[40:]
    loader = module_of(root, workers=workers, start_step=40, **mix).train_dataloader()
    batches = iter(loader)
    delivered = [next(batches)["key"] for _ in range(8)]
    assert delivered == expected[:8]
    assert loader._iterator is not None
    processes = [psutil.Process(process.pid) for process in loader._iterator._workers]
    read = sum(process.io_counters().read_chars for process in processes)
    sets = {"s": manifest, "m": other}
    sizes = [sum(sample_bytes(sets[key[0]], key) for key in keys) for keys in expected]
    assert {key[0] for keys in expected for key in keys} == (set(sets) if mixed else {"s"})
    assert sum(sizes[:8]) < read
    indexes = sum(map(index_bytes, sets.values()))
    assert read < sum(sizes) + workers * (indexes + START_BYTES)
    assert 40 * min(sizes) > 4 * workers * START_BYTES  # what skipping would read


@MIXED
def test_workers_decode_nothing_to_be_skipped(
    mixed: bool,
    manifest: ShardManifest,
    other: ShardManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded = tmp_path / "decoded"
    decode = transforms.decode

    def noting(slot: Slot, key: str, *arguments: Any) -> transforms.Sample:
        with decoded.open("a") as file:
            file.write(f"{key}\n")
        return decode(slot, key, *arguments)

    monkeypatch.setattr(reader, "decode", noting)
    ahead = 2 * PREFETCH_FACTOR
    root, mix = str(manifest.root), mix_of(mixed, other)
    expected = flat(train_batches(root, 45 + ahead, 1, **mix), "key")[40:]
    decoded.unlink()
    loader = module_of(root, workers=2, start_step=40, **mix).train_dataloader()
    delivered = [key for batch in islice(loader, 5) for key in batch["key"]]
    keys = decoded.read_text().split()
    assert delivered == [key for batch in expected[:5] for key in batch]
    assert sum(key.startswith("m") for key in delivered) == (5 if mixed else 0)
    assert len(keys) == len(set(keys))
    assert set(delivered) <= set(keys) <= {key for batch in expected for key in batch}


LEFT = """
import sys
from anyscene.config import DataConfig
from anyscene.data.datamodule import SceneDataModule
from anyscene.preemption import hold_signals
hold_signals()
batches = iter(SceneDataModule(DataConfig(sys.argv[1], batch_size=4, workers=2)).train_dataloader())
print(len(next(batches)["key"]))
sys.batches = batches  # nobody takes it away, as with a traceback that is kept
"""


def test_workers_that_are_left_behind_end_with_the_program(manifest: ShardManifest) -> None:
    """Although training holds back the signal that should end them."""
    command = [sys.executable, "-c", LEFT, str(manifest.root)]
    with child_process(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate(timeout=100)[0] == "4\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_workers_that_are_spawned(manifest: ShardManifest) -> None:
    """Everything that a worker gets is pickled then."""
    loader = module_of(
        str(manifest.root), workers=1, mix={str(manifest.root): 1.0}
    ).train_dataloader()
    loader.multiprocessing_context = "spawn"
    keys = [batch["key"] for batch in islice(loader, 3)]
    mixed = train_batches(str(manifest.root), 3, 1, mix={str(manifest.root): 1.0})
    assert keys == flat(mixed, "key")


def own_bytes(process: psutil.Process) -> int:
    """Memory that a process does not share with the one it was forked from."""
    return process.memory_full_info().uss


def test_memory_of_a_worker_does_not_grow_with_what_it_has_read(
    manifest: ShardManifest, tmp_path: Path
) -> None:
    """Two epochs of 200 shards, more than are held open at a time."""
    for number in range(200):
        for name in (manifest.shards[0].name, manifest.shards[0].name + ".index"):
            (tmp_path / f"{number:03d}-{name}").hardlink_to(manifest.root / name)
    first = manifest.shards[0]
    shards = [replace(first, name=f"{number:03d}-{first.name}") for number in range(200)]
    (tmp_path / "manifest.json").write_text(replace(manifest, shards=shards).to_json())
    loader = module_of(str(tmp_path), workers=1, batch_size=40, val=None).train_dataloader()
    batches = iter(loader)
    next(batches)
    assert loader._iterator is not None
    worker = psutil.Process(loader._iterator._workers[0].pid)
    used = [own_bytes(worker)]
    for _ in range(2):
        deque(islice(batches, 100), maxlen=0)
        used.append(own_bytes(worker))
    batch = 40 * SIDE * SIDE * 5
    assert used[1] - used[0] < PREFETCH_FACTOR * batch + 30e6
    assert used[2] - used[1] < 3e6
    assert used[2] < PREFETCH_FACTOR * batch + 300e6
