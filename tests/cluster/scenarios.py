"""What is done to runs on a real Slurm. Several go on at a time; tests judge how each one ended.

Each function submits a job, disturbs it, and returns it when it has ended as it should.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slurm_jobs import Cluster, Job, wait_for
from training import Run


@dataclass(frozen=True)
class Lab:
    """A cluster, and the way to submit runs to it."""

    cluster: Cluster
    submit: Callable[..., Job]


Scenario = Callable[[Lab], Job]


def reference(lab: Lab) -> Job:
    """The run that nothing disturbs."""
    job = lab.submit("reference")
    job.finish()
    return job


def signals(lab: Lab) -> Job:
    """In imports; with one slow rank, two signals; while a checkpoint is written, in validation."""
    holds = "1:train:2:1 2:write:4:0 2:validation:4:0"
    words = ("log.logger=wandb", "train.checkpoint_every=4")
    job = lab.submit("signals", *words, holds=holds)
    job.begun(0, 0, 1)
    job.signal("USR1")
    job.held(1, 1)
    job.signal("USR1", "USR2")
    job.held(2, 0)
    job.signal("USR2")
    job.finish()
    return job


def preempted(lab: Lab) -> Job:
    """By SIGTERM, then by the signal of `--signal`."""
    job = lab.submit("preempted", "--partition", "low", holds="0:train:3:0 1:train:6:0")
    config = lab.cluster.folder / "etc/slurm.conf"
    before = config.read_text()
    try:
        preempt(job, 0)
        config.write_text(f"{before}\nSlurmctldParameters=preempt_send_user_signal\n")
        lab.cluster("scontrol", "reconfigure")
        preempt(job, 1)
    finally:
        config.write_text(before)
        lab.cluster("scontrol", "reconfigure")
    job.finish()
    return job


def preempt(job: Job, start: int) -> None:
    """Let a job of higher priority take the nodes of a start that is held."""
    job.held(start, 0)
    folder = job.notes / f"high-{start}"
    folder.mkdir()
    (folder / "script").write_text("#!/bin/sh\nwhile [ ! -e done ]; do sleep 0.2; done\n")
    nodes = f"--nodelist={','.join(job.nodes)}"
    place = ("--partition=high", "--nodes=2", nodes, "--exclusive", f"--chdir={folder}")
    high = job.cluster("sbatch", "--parsable", *place, str(folder / "script"))
    wait_for(lambda: job.cluster.field(high, "JobState") == "RUNNING", "the other job")
    assert job.log.count("anyscene: stopped at step") == start + 1
    (folder / "done").touch()


def array(lab: Lab) -> Job:
    """The first element is asked to stop, and requeued; the second is cancelled, and not."""
    job = lab.submit("array", "--seeds", "0-1", holds="0:train:4:0")
    first, second = (job.element(number) for number in (0, 1))
    first.held(0, 0)
    first.signal("USR1")
    second.held(0, 0)
    lab.cluster("scancel", second.number)
    first.finish()
    wait_for(lambda: second.state == "CANCELLED", "the end of the second element")
    return first


def square(lab: Lab) -> Job:
    """Two by two ranks."""
    job = lab.submit("square", "--nodes", "2", "--tasks", "2")
    job.finish()
    return job


def killed(lab: Lab) -> Job:
    """A rank dies in the validation at a checkpoint's step, which the next start does again; a node
    crashes in that one, and the newest checkpoint is cut."""
    holds = "0:validation:4:1 1:train:7:0"
    words = ("train.checkpoint_every=2", "train.keep_checkpoints=2")
    job = lab.submit("killed", *words, holds=holds)
    process = job.held(0, 1)
    job.kill(job.nodes[1], process)
    job.held(1, 0)
    assert list(Run(job.run).figures("val/loss")) == [4]
    node = job.nodes[1]
    lab.cluster.script("node.sh", "crash", node)
    newest = Run(job.run).checkpoint(6)
    newest.write_bytes(newest.read_bytes()[:-1])
    wait_for(lambda: job.restarts == 2, "Slurm's requeue")
    lab.cluster.script("node.sh", "start", node)
    job.finish()
    return job


def full(lab: Lab) -> Job:
    """The disk is full while the last checkpoints are written; then there is room again."""
    small = lab.cluster.folder / "small"
    run = Run(small / "full")
    job = lab.submit("full", f"runs_dir={small}", holds="0:write:6:0").at(run.folder)
    job.held(0, 0)
    ballast = small / "ballast"
    fill(ballast)
    job.go_on(0)
    wait_for(lambda: job.state == "FAILED", "the failure of the last checkpoint")
    assert not run.checkpoint(6).exists()
    assert not list(run.folder.glob("checkpoints/.*"))
    ballast.unlink()
    again = lab.submit("full", f"runs_dir={small}").at(run.folder)
    again.finish()
    return again


def fill(path: Path) -> None:
    """Let a file take what is left of a disk."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
