"""Benchmarks are not type-checked and seldom run: each must at least start."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
COMMANDS = sorted(path for path in BENCHMARKS.glob("*.py") if "ArgumentParser(" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_benchmark_says_how_it_is_used(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As `python PATH --help`, whose imports take most of its time, in this process."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    for name in BENCHMARKS.glob("*.py"):  # each imports its own
        if name.stem not in known:
            sys.modules.pop(name.stem, None)
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
