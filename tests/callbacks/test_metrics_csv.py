"""metrics.csv: append only, cut where a run goes on."""

from io import FileIO
from pathlib import Path

from anyscene.callbacks import metrics_csv
from anyscene.callbacks.metrics_csv import MetricsCsv, read_metrics


def test_figures_are_appended(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    log = MetricsCsv(path)
    log.start_at(0)
    assert path.read_text() == "step,name,value\n"
    log.log_metrics({"train/loss": 0.1, "a,b": 1e-9}, step=1)
    log.log_metrics({"val/loss": float("nan")}, step=2)
    assert path.read_text() == 'step,name,value\n1,train/loss,0.1\n1,"a,b",1e-09\n2,val/loss,nan\n'
    assert read_metrics(path)[:2] == [(1, "train/loss", 0.1), (1, "a,b", 1e-9)]


def test_a_restart_drops_what_it_will_log_again(tmp_path: Path):
    log = MetricsCsv(tmp_path / "metrics.csv")
    log.start_at(0)
    for step in (1, 2, 3, 4):
        log.log_metrics({"train/loss": step / 3}, step=step)
    before = (tmp_path / "metrics.csv").read_text().splitlines()
    log.start_at(2)
    assert (tmp_path / "metrics.csv").read_text().splitlines() == before[:3]


def test_a_torn_line_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,train/loss,0.5\n2,train/lo")
    assert read_metrics(path) == [(1, "train/loss", 0.5)]
    MetricsCsv(path).start_at(9)
    assert path.read_text() == "step,name,value\n1,train/loss,0.5\n"
    path.write_text("step,name,value\n1,train/loss,0.5\n2,train/loss,")
    assert read_metrics(path) == [(1, "train/loss", 0.5)]
    assert read_metrics(tmp_path / "nowhere.csv") == []


def test_a_full_disk_makes_lines_wait(tmp_path, monkeypatch, capsys):
    """One warning; nothing is torn, and nothing is missing once there is room again."""
    csv = MetricsCsv(tmp_path / "metrics.csv")
    csv.start_at(0)
    csv.log_metrics({"a": 1.0}, step=1)
    before = csv.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(metrics_csv.Path, "open", lambda *_, **__: ShortOfRoom(csv.path))
        csv.log_metrics({"a": 2.0}, step=2)
        csv.log_metrics({"a": 3.0}, step=3)
    assert csv.path.read_bytes() == before
    assert capsys.readouterr().err.count("WARNING") == 1
    csv.log_metrics({"a": 4.0}, step=4)
    assert read_metrics(csv.path) == [(step, "a", float(step)) for step in (1, 2, 3, 4)]


class ShortOfRoom(FileIO):
    """A file on a disk with room for three more bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "a")

    def write(self, data: bytes) -> int:
        return super().write(data[:3])
