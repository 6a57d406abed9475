"""Runs on a real Slurm whose processes, nodes, disks and checkpoints fail."""

from contextlib import suppress
from pathlib import Path

import pytest
from slurm_jobs import wait_for
from slurm_outcome import assert_same_outcome
from training import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


def test_a_killed_rank_then_a_crashed_node_and_a_truncated_checkpoint(cluster, reference, submit):
    """The rank dies in the validation at a checkpoint's step, which the next start does again."""
    holds = "0:validation:4:1 1:train:7:0"
    job = submit("killed", "train.checkpoint_every=2", "train.keep_checkpoints=2", holds=holds)
    process = job.held(0, 1)
    job.kill(job.nodes[1], process)
    job.held(1, 0)
    assert list(Run(job.run).figures("val/loss")) == [4]
    node = job.nodes[1]
    cluster.script("node.sh", "crash", node)
    newest = Run(job.run).checkpoint(6)
    newest.write_bytes(newest.read_bytes()[:-1])
    wait_for(lambda: job.restarts == 2, "Slurm's requeue")
    job.finish()
    cluster.script("node.sh", "start", node)
    wait_for(lambda: cluster("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == "4", "nodes")
    assert f"WARNING: {newest} has" in job.log
    assert "falling back to the checkpoint before" in job.log
    assert_same_outcome(job, reference, starts=3, repeated=True)


def test_a_full_disk_while_a_checkpoint_is_written(cluster, reference, submit):
    small = cluster.folder / "small"
    run = Run(small / "full")
    job = submit("full", f"runs_dir={small}", holds="0:write:6:0").at(run.folder)
    job.held(0, 0)
    ballast = small / "ballast"
    fill(ballast)
    job.go_on(0)
    wait_for(lambda: job.state == "FAILED", "the failure of the last checkpoint")
    assert not run.checkpoint(6).exists()
    assert not list(run.folder.glob("checkpoints/.*"))
    ballast.unlink()
    again = submit("full", f"runs_dir={small}").at(run.folder)
    again.finish()
    assert_same_outcome(again, reference, starts=2, repeated=True)


def fill(path: Path) -> None:
    """Let a file take what is left of a disk."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
