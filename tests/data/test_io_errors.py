"""Files and file systems that fail for a while, or for good: no damage of samples."""

import errno
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from shard_files import write_shards
from test_shards import damage_of, keys_of, train_batches

from anyscene.data import reader
from anyscene.data.mixing import make_order
from anyscene.data.shards import train_pipeline
from anyscene.data.stream import Share
from anyscene.errors import InputError


@pytest.fixture(autouse=True)
def _tries_follow_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "RETRY_SECONDS", 0.001)


def test_io_errors_are_retried_and_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_shards(tmp_path, [8])
    expected = keys_of(train_batches(manifest, 2))
    failing = iter([True, True, False] * 8)
    read = os.pread

    def unsteady(*arguments: int) -> bytes:
        if next(failing):
            raise OSError(errno.EIO, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr(os, "pread", unsteady)
    batches = train_batches(manifest, 2)
    assert keys_of(batches) == expected
    assert damage_of(batches) == []


def test_file_handle_that_went_stale_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS after a server's failover: the old handle fails for good, a new one reads."""
    manifest = write_shards(tmp_path, [8])
    expected = keys_of(train_batches(manifest, 2))
    opened: list[int] = []
    stale: list[int] = []
    plain_open, read, close = os.open, os.pread, os.close

    def open_file(path: Any, *rest: int) -> int:
        opened.append(plain_open(path, *rest))
        return opened[-1]

    def close_file(file: int) -> None:
        if file in stale:
            stale.remove(file)
        close(file)

    def fail_once(file: int, size: int, offset: int) -> bytes:
        if len(opened) == 1:
            stale.append(file)
        if file in stale:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(file, size, offset)

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "close", close_file)
    monkeypatch.setattr(os, "pread", fail_once)
    batches = train_batches(manifest, 2)
    assert keys_of(batches) == expected
    assert len(opened) > 1


def test_a_lasting_io_error_names_the_file(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [8])
    (tmp_path / manifest.shards[0].name).unlink()
    (error,) = train_batches(manifest, 2)
    assert isinstance(error, InputError)
    assert str(error) == (
        f"shard-000.tar of '{tmp_path}' cannot be read after 3 tries: No such file or directory"
    )


def test_few_files_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_shards(tmp_path, [2] * 9)
    monkeypatch.setattr(reader, "OPEN_FILES", 3)
    before = len(os.listdir("/proc/self/fd"))
    order = make_order(manifest, seed=1, batch_size=4, shuffle_window=8)
    batches = iter(train_pipeline(manifest, order, Share(), 0))
    for batch in islice(batches, 8):
        assert isinstance(batch, dict)
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    del batches, batch
    assert len(os.listdir("/proc/self/fd")) == before
