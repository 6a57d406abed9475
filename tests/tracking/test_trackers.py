"""Which tracker `log.logger` gives, and TensorBoard over a restart."""

import errno
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_config

from anyscene.tracking.loggers import build_loggers


@pytest.mark.parametrize(("logger", "folder"), [("none", ""), ("tensorboard", "logs/tensorboard")])
def test_figures_over_a_restart(logger, folder, tiny_base_folder, demo_shards, tmp_path: Path):
    """What a killed start logged after its checkpoint does not appear a second time."""
    config = tiny_config(tiny_base_folder, demo_shards, tmp_path, f"log.logger={logger}")
    for start, last in ((0, 7), (6, 9)):
        for tracker in build_loggers(config, tmp_path / "run", start):
            for step in range(start + 1, last + 1):
                tracker.log_metrics({"train/loss": step / 8}, step)
            tracker.finalize("success")
    if not folder:
        assert not (tmp_path / "run").exists()
        return
    events = EventAccumulator(str(tmp_path / "run" / folder)).Reload().Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, 10))
    assert [event.value for event in events] == [step / 8 for step in range(1, 10)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_ends_tensorboard_and_not_the_run(workspace, monkeypatch, capsys):
    """A thread writes its files: the next figure meets the failure."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", fail)
    run = workspace.train("full-tensorboard", "log.logger=tensorboard", "data.val=null")
    assert len(run.figures("train/loss")) == 6
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert line.startswith(f"WARNING: {run.folder}/logs/tensorboard: No space left on device; the")
