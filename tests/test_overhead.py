"""The benchmark of what training costs beside the model runs; its figures need a quiet machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_overhead_of_all_four_ways_is_measured():
    command = [sys.executable, "benchmarks/overhead.py", "--steps", "5", "--rounds", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    measured = {line[:16].strip(): [float(v) for v in line[16:].split()] for line in lines[1:5]}
    assert list(measured) == ["loop by hand", "bare Trainer", "anyscene", "Lightning's set"]
    assert all(values[0] > 0 for values in measured.values())
    assert measured["loop by hand"][1::3] == [0, 0]  # over itself, by both clocks
    assert measured["bare Trainer"][2::3] == [0, 0]
    assert lines[-1].startswith("anyscene's CPU time over the bare Trainer is ")
