"""The benchmark of reading runs, at a small size, against what is installed here: webdataset."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_benchmark_of_reading_compares_every_form_of_a_sample() -> None:
    words = ["--python", sys.executable, "--samples", "16", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "benchmarks/data.py", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    facts, sizes, *lines = done.stdout.splitlines()
    assert "webdataset 1." in facts
    assert re.search(r"scenes \d+, cached \d+, npy \d+, latents \d+", sizes)
    found = {line[:26].strip(): float(line[26:].split()[0]) for line in lines}
    forms = "scenes webdataset floats", "scenes webdataset uint8", "cached webdataset"
    assert found.keys() >= {*forms, "latents webdataset"}
    assert min(found.values()) > 0
