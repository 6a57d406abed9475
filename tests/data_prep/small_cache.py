"""The cache that tests of `prepare cache` share, and what is in one."""

from collections.abc import Callable
from pathlib import Path

from shard_folders import Members, rewrite, write_shards
from small_coco import file_bytes

from anyscene.data.sample import ShardManifest
from data_prep.shards import read_samples

SAMPLES = 7  # in four shards


def samples_of(folder: Path) -> dict[str, Members]:
    """All samples of a folder by key, in the manifest's order."""
    manifest = ShardManifest.read(folder)
    return {
        key: members
        for number in range(len(manifest.shards))
        for key, members in read_samples(manifest.path(number))
    }


def damaged_source(source: Path, folder: Path, change: Callable[[list], object]) -> Path:
    """A copy of the source whose first shard is changed."""
    write_shards(folder, samples=SAMPLES)
    assert file_bytes(folder) == file_bytes(source)
    rewrite(folder, change)
    return folder
