"""`anyscene status`: a run as its folder and SLURM show it. No torch here."""

import shutil
import subprocess
from pathlib import Path

from anyscene.errors import DamageError, InputError
from anyscene.metrics_file import read_metrics
from anyscene.records import checkpoint_record, run_record

FORGOTTEN = "Invalid job id"
"""What `squeue` says of a job that ended some time ago; all else, as of a controller that does not
answer, says nothing about the job."""


def describe(run: Path, lines: int) -> str:
    """State, restarts, step, speed, last checkpoint and the end of the log, a line each.

    Raises:
        InputError: the folder is no run, or its `run.json` is damaged.
    """
    logs = sorted((run / "logs").glob("slurm-*.out"), key=lambda path: path.stat().st_mtime)
    if not logs and not (run / "run.json").is_file():
        raise InputError(f"{run} is no run folder: it has neither run.json nor logs of SLURM")
    jobs = run_record(run).get("jobs", [])
    parts = [
        ("state", state(jobs[-1]["slurm_job_id"] if jobs else None, logs)),
        ("restarts", str(max(0, len(jobs) - 1))),
        ("step", progress(run)),
        ("checkpoint", last_checkpoint(run)),
    ]
    text = "\n".join(f"{name + ':':<12}{value}" for name, value in parts)
    if logs:
        tail = logs[-1].read_text(errors="replace").splitlines()
        tail = tail[max(0, len(tail) - max(0, lines)) :]
        text += "\n".join(["", f"{'log:':<12}{logs[-1]}", *(f"  {line}" for line in tail)])
    return text


def state(job_id: str | None, logs: list[Path]) -> str:
    """SLURM's state of the last job, where there is one and SLURM still knows it."""
    if job_id is None and logs:
        job_id = logs[-1].stem.partition("-")[2]
    if job_id is None:
        return "not started by SLURM"
    if shutil.which("squeue") is None:
        return f"unknown: no SLURM here (job {job_id})"
    command = ["squeue", "--noheader", f"--jobs={job_id}", "--states=all", "--format=%T (%r), %M"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and FORGOTTEN not in done.stderr:
        return f"unknown: {' '.join(done.stderr.split())} (job {job_id})"
    known = done.stdout.strip() if done.returncode == 0 else ""
    return f"{known or 'not in the queue'} (job {job_id})"


def progress(run: Path) -> str:
    """Optimizer steps logged, and the speed then."""
    rows = [row for row in read_metrics(run / "metrics.csv") if row[1].startswith("train/")]
    if not rows:
        return "none logged"
    step = max(row[0] for row in rows)
    speeds = [value for _, name, value in rows if name == "train/images_per_second"]
    return f"{step}" + (f", {speeds[-1]:.3g} images/s" if speeds else "")


def last_checkpoint(run: Path) -> str:
    """The newest finished checkpoint and its size."""
    found = sorted((run / "checkpoints").glob("step-*.json"))
    records = [record for record in found if record.with_suffix(".ckpt").exists()]
    if not records:
        return "none"
    try:
        stated = checkpoint_record(records[-1])
    except DamageError:
        return f"{records[-1].stem}, with a damaged record"
    return f"{records[-1].stem}, {stated['bytes'] / 1e9:.3g} GB"
