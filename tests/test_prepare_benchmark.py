"""The benchmark of preparation runs, at a small size; its speeds need a quiet machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_benchmark_of_preparation_compares_speed_and_quality_with_pillow() -> None:
    """What both make is nearly the same picture, so neither saves work that the other does."""
    command = [sys.executable, "benchmarks/prepare.py", "--images", "3", "--rounds", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    samples, whole, scenes, quality, *stages = done.stdout.splitlines()
    assert samples == "3 images give a sample"
    number = r"(\d+\.\d+)"
    ratio = rf"{number} times Pillow's speed \(rounds {number} to {number}\); "
    for line, title in ((whole, "complete samples"), (scenes, "scenes alone")):
        found = re.match(rf"{title}: {ratio}at best {number} ms against {number} ms", line)
        assert found, line
        median, least, most, ours, theirs = map(float, found.groups())
        assert least <= median <= most
        assert min(ours, theirs) > 1  # no picture of 1024 x 1024 is decoded in a millisecond
        assert median > 2  # 4 on a quiet machine
    found = re.fullmatch(rf"PSNR against the peer: mean {number} dB, least {number}", quality)
    assert found, quality
    mean, least = map(float, found.groups())
    assert 35 < least <= mean < 60
    times = {line.split()[-1]: float(line.split()[0]) for line in stages}
    assert {"decode_image", "encode_scene", "mask_quality", "soften"} <= times.keys()
    assert min(times.values()) > 0
