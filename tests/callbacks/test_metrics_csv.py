"""metrics.csv: append only, cut where a run goes on."""

from pathlib import Path

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
