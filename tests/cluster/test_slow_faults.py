"""Runs on a real Slurm under faults that take minutes: time limits, cut networks, and chance."""

import os
import random
import time

import pytest
from slurm_jobs import Job, wait_for
from slurm_outcome import assert_same_outcome

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_time_limit_is_no_end(reference, submit):
    """Slurm asks to stop one to two minutes before the limit of four."""
    limits = ("cluster.time=4", "cluster.stop_seconds=60")
    job = submit("limited", *limits, holds="0:train:4:0")
    job.held(0, 0)
    job.finish()
    assert job.restarts >= 1
    assert "DUE TO TIME LIMIT" not in job.log
    assert_same_outcome(job, reference, starts=job.restarts + 1)


def test_a_cut_network_costs_the_steps_since_the_last_checkpoint(cluster, reference, submit):
    job = submit("cut", holds="0:train:5:0")
    job.held(0, 0)
    node = job.nodes[1]
    cluster.script("node.sh", "netdown", node)
    try:
        wait_for(lambda: job.restarts == 1, "Slurm's requeue")
        job.go_on(0)
        job.finish()
    finally:
        cluster.script("node.sh", "netup", node)
        wait_for_nodes(job)
    assert_same_outcome(job, reference, starts=2, repeated=True)


def test_random_faults(reference, submit):
    """For two minutes, or ANYSCENE_CHAOS_SECONDS: signals, kills, crashes, cut checkpoints."""
    seed = int(os.environ.get("ANYSCENE_CHAOS_SEED", time.time_ns() % 10**6))
    print(f"ANYSCENE_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    job = submit("chaos", "cluster.timeout_minutes=1")
    begin = time.monotonic()
    end = begin + float(os.environ.get("ANYSCENE_CHAOS_SECONDS", "120"))
    done = []
    while time.monotonic() < end and job.state != "COMPLETED":
        time.sleep(chance.uniform(5, 40))
        if job.state == "RUNNING" and len(job.nodes) == 2:
            fault = chance.choice(
                [signal, kill, crash, truncate] if starts_again(job) else [signal]
            )
            if fault(job, chance):
                done.append(fault.__name__)
    print(f"{len(done)} faults: {', '.join(done)}")
    job.finish()
    print(f"{job.restarts} restarts in {time.monotonic() - begin:.0f} s")
    assert_same_outcome(job, reference)


def starts_again(job: Job) -> bool:
    """Whether a death is followed by another start: the fourth in a row without a checkpoint is
    not."""
    return (job.run / "logs" / f"requeue-{job.number}").exists()


def signal(job: Job, chance: random.Random) -> bool:
    """As Slurm does before it takes the nodes away. Like the others, returns whether it did so."""
    job.signal(chance.choice(["USR1", "USR2", "TERM"]))
    return True


def kill(job: Job, chance: random.Random) -> bool:
    """`kill -9` of a rank."""
    rank = chance.choice([0, 1])
    begun = job.notes / f"begun-{job.restarts}-{rank}"
    if not begun.exists():
        return False
    job.kill(job.nodes[rank], int(begun.read_text()))
    return True


def crash(job: Job, chance: random.Random) -> bool:
    """A node that loses its power, and gets it back."""
    node = chance.choice(job.nodes)
    job.cluster.script("node.sh", "crash", node)
    wait_for(lambda: job.state != "RUNNING", "Slurm to see it")
    job.cluster.script("node.sh", "start", node)
    return True


def truncate(job: Job, chance: random.Random) -> bool:
    """The newest of several checkpoints loses its end, and a rank dies."""
    saved = sorted(job.run.glob("checkpoints/step-*.ckpt"))
    if len(saved) < 2:
        return False
    saved[-1].write_bytes(saved[-1].read_bytes()[:-1])
    kill(job, chance)
    return True


def wait_for_nodes(job: Job) -> None:
    """Until all four can be used again."""
    command = ("sinfo", "--noheader", "--partition=low", "--states=idle", "--format=%D")
    wait_for(lambda: job.cluster(*command) == "4", "all nodes")
