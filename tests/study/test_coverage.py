"""95 % intervals hold the truth in 95 % of synthetic studies, whose truth is the paper's table."""

from pathlib import Path

import pytest
from coverage_studies import coverage
from simulated import PROTOCOL

from anyscene.study.protocol import read_protocol

PAPER = Path(__file__).resolve().parents[2] / "configs" / "study" / "paper.yaml"


def test_intervals_of_a_small_study_hold_the_truth():
    found = coverage(PROTOCOL, 60, seed=1)
    assert found.held.shape == (60, 12)
    assert found.error < 0.012
    assert 0.91 < found.pooled < 0.99  # within four standard errors of 0.95


@pytest.mark.slow
def test_intervals_of_the_papers_study_hold_the_truth():
    found = coverage(read_protocol(PAPER), 500, seed=1)
    assert 0.93 < found.pooled < 0.97
    assert found.error < 0.005
    # Of twelve cells with a standard error of 0.01 the most extreme one is within three of them.
    assert 0.92 < found.held.mean().min() < found.held.mean().max() < 0.98
