"""What is shipped: how large it is, and that the benchmark's pair is a fair one."""

from pathlib import Path

import anyscene
from anyscene.benchmark.demo import CANNY, FIM
from anyscene.export_record import read_export_record

ASSETS = Path(anyscene.__file__).parent / "assets"


def test_shipped_weights_stay_under_24_megabytes():
    weights = [path.stat().st_size for path in ASSETS.rglob("*.safetensors")]
    assert 0 < sum(weights) < 24e6


def test_benchmark_pair_differs_in_the_hint_alone():
    records = [read_export_record(folder) for folder in (FIM, CANNY)]
    for record in records:
        assert record is not None
        config = record["config"]
        assert config["fim"].pop("hint") == record["hint"]
        del config["name"], config["fim"]["fit_embedder_steps"]  # edges have no target for it
    ours, edges = records
    assert ours is not None
    assert edges is not None
    assert (ours["hint"], edges["hint"]) == ("pixel", "canny")
    assert ours["step"] == edges["step"] == ours["config"]["train"]["steps"]
    for key in ("config", "base", "data_manifest_sha256"):
        assert ours[key] == edges[key], key
