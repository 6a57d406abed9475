"""The benchmark of training steps, small: both sides run and its table adds up."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from data_prep.cache import Settings, prepare_cache

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train_step

    yield train_step
    for name in ("train_step", "plain_loop"):
        sys.modules.pop(name, None)


def test_the_benchmark_of_steps_measures_both_sides(
    benchmark, tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
):
    from plain_loop import count_flop

    cache = Settings(str(tiny_base_folder), dtype="fp16", device="cpu", batch_size=2)
    prepare_cache(str(demo_shards / "train"), tmp_path / "cached", cache)
    shards = tmp_path / "cached"
    setting = benchmark.Setting(tiny_base_folder, shards, batch=2, steps=1, precision="bf16")
    rows = {
        name: [benchmark.one_side(name, setting)] for name in ("plain loop, eager", "ours, eager")
    }
    assert all(side["images_per_second"] > 0 for (side,) in rows.values())
    flop = count_flop(tiny_base_folder, 2, 64)
    rows["ours, eager"] = [{"images_per_second": s, "peak_gib": 1.0} for s in (1.0, 3.0, 9.0)]
    rows["plain loop, eager"] = [{"images_per_second": 2.0, "peak_gib": 0.5}]
    last = benchmark.table(rows, flop, {"measured": 10 * flop}).splitlines()[-1]
    assert last == "| ours, eager | 3 | 30.0% | 1.0 | 1.50 |"
