"""Fixtures of the benchmark's tests."""

import importlib.util
import sys
from pathlib import Path

import pytest
from families import family_base
from subject_photos import photo_folder

from anyscene.benchmark.build import BuildSettings, build
from anyscene.benchmark.build_subjects import SubjectSettings, build_subjects
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


@pytest.fixture(scope="session")
def subject_set(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Scenes of a mug, with a foreground, and of a dog and of both, without. Read only."""
    folder = tmp_path_factory.mktemp("subjects")
    settings = SubjectSettings(pixels=64, prompts=1, pairs=1)
    return build_subjects(photo_folder(folder / "photos"), folder / "set", settings)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_base(tmp_path_factory.mktemp("base") / "sd15", "sd15")
