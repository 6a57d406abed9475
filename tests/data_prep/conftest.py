"""Fixtures of the tests of `prepare cache`."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from data_prep.cache import Settings


@pytest.fixture(scope="session")
def cache_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in four shards. Read only."""
    from shard_folders import write_shards
    from small_cache import SAMPLES

    return write_shards(tmp_path_factory.mktemp("source"), samples=SAMPLES)


@pytest.fixture(scope="session")
def cache_settings(tiny_base_folder: Path) -> "Iterator[Settings]":
    """Float32 moments of batches of three. Each base is loaded once."""
    from anyscene.models.loading import load_base
    from data_prep import cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load_base", lru_cache(load_base))
        yield cache.Settings(str(tiny_base_folder), dtype="fp32", device="cpu", batch_size=3)


@pytest.fixture(scope="session")
def whole_cache(
    cache_source: Path, cache_settings: "Settings", tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The cache of `cache_source`. Read only."""
    from data_prep.cache import prepare_cache

    out = tmp_path_factory.mktemp("cache") / "whole"
    prepare_cache(str(cache_source), out, cache_settings)
    return out
