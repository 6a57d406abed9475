"""`benchmarks/metrics.py` at a small size: both distances agree, and memory is counted."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks/metrics.py"


@pytest.mark.filterwarnings("ignore:Metric .Frechet Inception Distance")
def test_both_distances_and_the_memory_of_a_small_run(capsys):
    spec = importlib.util.spec_from_file_location("benchmark_of_metrics", PATH)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.compare("many", 40, 16, 1) > 0
    assert 0 <= benchmark.memory(200, 16, kid_images=50) < 1
    line = capsys.readouterr().out.splitlines()[0]
    ours, theirs = line.rpartition("distances ")[2].split(" and ")
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
