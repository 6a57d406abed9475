"""The state of a run, from its folder and what SLURM says."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from training import refused

from anyscene.cli import main
from anyscene.cluster.status import state


def test_status_of_a_run(tiny_run, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert main(["status", str(tiny_run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "state:      not started by SLURM"
    assert lines[1] == "restarts:   0"
    assert lines[2].startswith("step:       ")
    assert re.fullmatch(r"checkpoint: step-00000003, [\d.e-]+ GB", lines[3])
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    rows = "step,name,value\n3,train/images_per_second,12.34\n"
    (run / "metrics.csv").write_text(rows)
    (run / "logs").mkdir()
    (run / "logs/slurm-7.out").write_text("one\ntwo\nthree\n")
    assert main(["status", str(run), "--lines", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "(job 7)" in lines[0] or lines[0].endswith("no SLURM here (job 7)")
    assert lines[2] == "step:       3, 12.3 images/s"
    assert lines[4:] == [f"log:        {run / 'logs/slurm-7.out'}", "  two", "  three"]
    assert main(["status", str(run), "--lines", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[4:] == [f"log:        {run / 'logs/slurm-7.out'}"]
    (run / "checkpoints/step-00000009.json").write_text("{}")  # its file was removed
    (run / "checkpoints/step-00000003.json").write_text("{")
    assert main(["status", str(run)]) == 0
    assert "checkpoint: step-00000003, with a damaged record" in capsys.readouterr().out
    (run / "run.json").write_text("{")
    assert "run.json is damaged" in refused(["status", str(run)], capsys)
    line = refused(["status", str(tmp_path)], capsys)
    assert "is no run folder" in line


def test_a_requeued_run_is_as_its_last_start(tmp_path, capsys, monkeypatch):
    """Also one whose job ids and steps do not rise: Slurm's ids begin anew, a start goes back."""
    squeue = tmp_path / "squeue"
    squeue.write_text('#!/bin/sh\necho "RUNNING $2"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    logs = tmp_path / "run/logs"
    logs.mkdir(parents=True)
    for age, (job, text) in enumerate([("5", b"new \xff\n"), ("9", b"old\n")]):
        (logs / f"slurm-{job}.out").write_bytes(text)
        os.utime(logs / f"slurm-{job}.out", (1000 - age, 1000 - age))
    rows = ["2,train/images_per_second,7", "4,train/loss,1", "3,train/images_per_second,5"]
    csv = "\n".join(["step,name,value", *rows, "6,val/loss,1", ""])
    (tmp_path / "run/metrics.csv").write_text(csv)
    told = ["restarts:   0", "step:       4, 5 images/s", "checkpoint: none"]
    told += [f"log:        {logs / 'slurm-5.out'}", "  new \N{REPLACEMENT CHARACTER}"]
    for restarts, jobs in (("0", []), ("1", ["9", "5"])):
        (tmp_path / "run/run.json").write_text(
            json.dumps({"jobs": [{"slurm_job_id": j} for j in jobs]})
        )
        assert main(["status", str(tmp_path / "run")]) == 0
        told[0] = f"restarts:   {restarts}"
        assert capsys.readouterr().out.splitlines() == [
            "state:      RUNNING --jobs=5 (job 5)",
            *told,
        ]


@pytest.mark.parametrize(
    ("squeue", "told"),
    [
        ("echo 'RUNNING (None), 1:02'", "RUNNING (None), 1:02 (job 7)"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "not in the queue"),
        ("true", "not in the queue (job 7)"),
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
            "unknown: slurm_load_jobs error: Unable to contact slurm controller (job 7)",
        ),
    ],
)
def test_a_job_is_not_gone_because_slurm_does_not_answer(squeue, told, tmp_path, monkeypatch):
    """A user would submit it again beside itself."""
    program = tmp_path / "squeue"
    program.write_text(f'#!/bin/sh\ncase "$*" in *--jobs=7*) {squeue};; *) exit 9;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert state("7", []).startswith(told)
