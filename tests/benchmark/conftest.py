"""Fixtures of the benchmark's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest

from anyscene.benchmark.build import BuildSettings, build
from anyscene.benchmark.scenes import Benchmark
from anyscene.config import MetricsConfig
from anyscene.data.sample import ShardManifest


@pytest.fixture(scope="session")
def demo_benchmark(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Four scenes of the demo in their own layout, their truth known. Read only."""
    out = tmp_path_factory.mktemp("benchmark") / "demo"
    return build(ShardManifest.read(demo_shards / "val"), out, BuildSettings(4, 0.0))


@pytest.fixture(scope="session")
def small_metrics(tmp_path_factory: pytest.TempPathFactory) -> MetricsConfig:
    """Small random networks of every kind, as the tests of metrics have them."""
    path = Path(__file__).parents[1] / "metrics" / "small_networks.py"
    spec = importlib.util.spec_from_file_location("small_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("small_networks", module)
    spec.loader.exec_module(module)
    return module.save_all(tmp_path_factory.mktemp("networks"))
