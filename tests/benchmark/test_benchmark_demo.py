"""The demo's benchmark with few scenes and steps: every method's row, and the gallery."""

from pathlib import Path

import pytest

from anyscene.benchmark.demo import DemoSettings, run_demo
from anyscene.benchmark.methods import METHODS, NEEDS_SUBJECTS


@pytest.mark.slow
def test_benchmark_demo_has_a_row_of_every_method(tmp_path: Path):
    settings = DemoSettings(scenes=4, steps=4, micro_batch=4)
    page = run_demo(tmp_path / "demo", settings)
    rows = (page.parent / "report.md").read_text().splitlines()
    for name in METHODS.keys() - set(NEEDS_SUBJECTS):
        assert any(row.startswith((f"| {name} |", f"| {name} * |")) for row in rows)
    assert (tmp_path / "demo" / "gallery.png").is_file()
    before = page.read_bytes()
    assert run_demo(tmp_path / "demo", settings).read_bytes() == before  # all is reused
