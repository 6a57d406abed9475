"""The benchmark of training steps, small: both sides run and its table adds up."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import tiny_config

from anyscene.cost import count_step
from anyscene.data.cached import has_cached_latents
from data_prep.cache import Settings, prepare_cache

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
OWN = ("train_step", "plain_loop", "our_step", "own_process", "random_base")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import train_step

    yield train_step
    for name in OWN:
        sys.modules.pop(name, None)


def test_the_benchmark_of_steps_measures_both_sides(
    benchmark, tiny_base_folder: Path, demo_shards: Path, tmp_path: Path
):
    from plain_loop import flop_per_image

    cache = Settings(str(tiny_base_folder), dtype="fp16", device="cpu", batch_size=2)
    prepare_cache(str(demo_shards / "train"), tmp_path / "cached", cache)
    setting = benchmark.Setting(
        tiny_base_folder, tmp_path / "cached", batch=2, workers=0, warm_steps=1, seconds=0
    )
    for name in ("plain loop, eager", "ours, eager", "ours, checkpointing"):
        figures = benchmark.one_row(name, setting)
        assert figures["timed_steps"] == 1
        assert figures["images_per_second"] * figures["seconds_a_step"] == pytest.approx(2)
        assert figures["peak_gib"] is None or torch.cuda.is_available()
    flop = flop_per_image(tiny_base_folder, 64)
    names = ("ours, eager", "ours, compile")
    overrides = ("data.batch_size=2", "train.precision=bf16")
    config = tiny_config(tiny_base_folder, demo_shards, tmp_path, *overrides)
    dry_run = count_step(config, (64, 64)).peak / 2**30
    assert benchmark.counted_rows(names, setting, 64) == dict.fromkeys(names, dry_run)
    rows = {
        "plain loop, eager": [{"images_per_second": 2.0, "peak_gib": None}],
        "ours, compile": [{"failed": "took more than 3 s"}],
        "ours, eager": [{"images_per_second": s, "peak_gib": 1.0} for s in (1.0, 3.0, 9.0)],
    }
    counted = dict.fromkeys(rows, 1.25)
    *_, loop, failed, last = benchmark.table(rows, counted, flop, {"m": 10 * flop}).splitlines()
    assert loop == "| plain loop, eager | 2 | 20.0% | 1.2 | unknown | 1.00 |"
    assert failed == "| ours, compile | failed | | 1.2 | | |"
    assert last == "| ours, eager | 3 | 30.0% | 1.2 | 1.0 | 1.50 |"


def test_a_benchmark_s_scenes_of_random_weights_are_a_cache(
    benchmark, demo_shards: Path, tmp_path: Path
):
    base, cached = benchmark.encode_scenes("small", demo_shards / "train", tmp_path)
    assert (base / "unet/config.json").is_file()
    assert has_cached_latents(str(cached))


def test_kept_bases_and_scenes_are_of_their_family_and_size(
    benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folders = []

    def encoded(_family: str, shards: Path, folder: Path) -> tuple[Path, Path]:
        folders.append(folder)
        return folder, shards

    def here(function, *arguments, limit: float):  # noqa: ARG001
        return function(*arguments)

    monkeypatch.setattr(benchmark, "draw_scenes", lambda folder, _size: folder)
    monkeypatch.setattr(benchmark, "encode_scenes", encoded)
    monkeypatch.setattr(benchmark, "device_rates", lambda: {"measured": 1.0})
    monkeypatch.setattr(benchmark, "one_row", lambda *_: {"images_per_second": 2.0})
    monkeypatch.setattr(benchmark, "flop_per_image", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "counted_rows", lambda names, *_: dict.fromkeys(names, 1.0))
    monkeypatch.setattr(benchmark, "in_own_process", here)
    out = tmp_path / "new" / "steps.json"
    for words in (["--family", "sd15"], ["--family", "sdxl"], ["--family", "sd15", "--size", "64"]):
        kept = ["--folder", str(tmp_path), "--out", str(out), "--rows", "ours, eager"]
        monkeypatch.setattr(sys, "argv", ["train_step.py", *words, *kept])
        benchmark.main()
    assert len({*folders}) == 3
    assert {folder.parent for folder in folders} == {tmp_path}
    assert [path.name for path in out.parent.iterdir()] == ["steps.json"]
    record = json.loads(out.read_text())
    assert record["rows"]["ours, eager"][0]["images_per_second"] == 2
    assert record["counted_gib"] == {"ours, eager": 1.0}
    assert "sd15 at 64 px" in capsys.readouterr().out


def test_a_function_in_its_own_process_returns_fails_or_is_ended(benchmark):
    fork, error = benchmark.in_own_process, benchmark.ChildFailedError
    assert fork(os.getpid, limit=30) != os.getpid()
    with pytest.raises(error, match="ValueError"):
        fork(int, "seven", limit=30)
    with pytest.raises(error, match="its process died"):
        fork(os._exit, 3, limit=30)
    started = time.perf_counter()
    with pytest.raises(error, match=r"took more than 0 s"):
        fork(time.sleep, 60, limit=0.2)
    assert time.perf_counter() - started < 30
