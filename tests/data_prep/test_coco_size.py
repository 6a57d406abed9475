"""A preparation of COCO's size: how soon it starts, and the memory that it takes and keeps to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from child_process import child_process

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST_GIB = 3.0
LATEST_START_SECONDS = 60
GROWTH_MB = 2.0
"""In 960 images of 12 kB each. Annotations leave some free memory, in which less could hide."""


def measured(*words: str) -> str:
    """What the benchmark of memory prints."""
    with child_process(
        [sys.executable, "benchmarks/prepare_memory.py", *words],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        told, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    print(told)
    return told


def number(pattern: str, text: str) -> float:
    found = re.search(pattern.replace("N", r"(\d+\.?\d*)"), text)
    assert found, text
    return float(found[1])


@pytest.mark.slow
def test_annotations_of_cocos_size_start_in_a_minute_and_stay_under_three_gib() -> None:
    """118,000 images, 860,000 instances and 590,000 captions, the first of which are prepared."""
    told = measured("--stop", "1000")
    assert number("118000 images, annotations of N MB", told) > 400
    assert 1 < number("started after N s of processor time", told) < LATEST_START_SECONDS
    assert 0.5 < number("at most N GiB in all processes", told) < LARGEST_GIB


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_that_were_prepared() -> None:
    """After four fifths of them it is what it was after a fifth, in every process."""
    told = measured("--images", "1200")
    parts = re.findall(r"to +(\d+)% main +(\d+\.\d) MB, a worker +(\d+\.\d) MB", told)
    assert [int(share) for share, *_ in parts] == list(range(10, 101, 10))
    for process in (1, 2):
        after_a_fifth, *later = [float(part[process]) for part in parts[1:]]
        assert after_a_fifth > 10
        assert max(later) - after_a_fifth < GROWTH_MB


@pytest.mark.parametrize("words", [["--images", "0"], ["--stop", "-1"]])
def test_the_benchmark_of_memory_refuses_no_images_in_one_line(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/prepare_memory.py", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    line = f"prepare_memory.py: {' '.join(words)} must be at least 1\n"
    assert (done.returncode, done.stderr) == (2, line)
