"""Fixtures of the benchmark's tests."""

from pathlib import Path

import pytest

from anyscene.benchmark.build import BuildSettings, build
from anyscene.benchmark.scenes import Benchmark
from anyscene.data.sample import ShardManifest


@pytest.fixture(scope="session")
def demo_benchmark(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Four scenes of the demo in their own layout, their truth known. Read only."""
    out = tmp_path_factory.mktemp("benchmark") / "demo"
    return build(ShardManifest.read(demo_shards / "val"), out, BuildSettings(4, 0.0))
