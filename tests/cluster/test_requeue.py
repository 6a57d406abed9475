"""Runs on a real Slurm that are asked to stop, and end as if they had not been."""

import json

import pytest
from slurm_jobs import wait_for
from slurm_outcome import assert_same_outcome
from training import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]


def test_signals_at_any_time(reference, submit):
    """In imports, with one slow rank (two signals), while a checkpoint is written, in validation;
    W&B goes on in one run."""
    holds = "1:train:2:1 2:write:3:0 3:validation:4:0"
    job = submit("signals", "log.logger=wandb", holds=holds)
    job.begun(0, 0, 1)
    job.signal("USR1")
    job.held(1, 1)
    job.signal("USR1", "USR2")
    for start in (2, 3):
        job.held(start, 0)
        job.signal("USR2")
    job.finish()
    stops = [line for line in job.log.splitlines() if line.startswith("anyscene: stopped at")]
    steps = [int(line.split()[4].strip(",")) for line in stops]
    assert steps[:2] == [0, 2]
    assert steps[2] in (3, 4)  # wherever training was when the signal came
    assert steps[3:] == [4]
    assert job.restarts == 4
    assert_same_outcome(job, reference, starts=5)
    wandb_id = json.loads((job.run / "run.json").read_text())["wandb_id"]
    offline = [path.name for path in job.run.glob("wandb/offline-run-*")]
    assert len(offline) == 5
    assert all(name.endswith(f"-{wandb_id}") for name in offline)


@pytest.fixture
def user_signal_at_preemption(cluster):
    """Slurm sends the signal of `--signal` at preemption, not SIGTERM."""
    config = cluster.folder / "etc/slurm.conf"
    before = config.read_text()

    def use() -> None:
        config.write_text(f"{before}\nSlurmctldParameters=preempt_send_user_signal\n")
        cluster("scontrol", "reconfigure")

    yield use
    config.write_text(before)
    cluster("scontrol", "reconfigure")


def test_preemption_with_and_without_the_user_signal(
    cluster, reference, submit, user_signal_at_preemption
):
    job = submit("preempted", "--partition", "low", holds="0:train:3:0 1:train:6:0")
    for start in (0, 1):
        job.held(start, 0)
        script = "#!/bin/sh\nwhile [ ! -e done ]; do sleep 0.2; done\n"
        folder = job.notes / f"high-{start}"
        folder.mkdir()
        (folder / "script").write_text(script)
        high = cluster(
            "sbatch",
            "--parsable",
            "--partition=high",
            "--nodes=4",
            "--exclusive",
            f"--chdir={folder}",
            str(folder / "script"),
        )
        wait_for(lambda high=high: cluster.field(high, "JobState") == "RUNNING", "the other job")
        assert job.state == "PENDING"
        (folder / "done").touch()
        user_signal_at_preemption()
    job.finish()
    assert job.log.count("anyscene: stopped at step") == 2
    assert_same_outcome(job, reference, starts=3)


def test_a_cancelled_run_stays_so_although_it_saves(submit):
    job = submit("cancelled", holds="0:train:3:0")
    job.held(0, 0)
    job.cluster("scancel", job.number)
    wait_for(lambda: Run(job.run).checkpoint(3).with_suffix(".json").exists(), "its checkpoint")
    wait_for(lambda: "COMPLETING" not in job.cluster("scontrol", "show", "job", job.number), "end")
    assert job.state == "CANCELLED"
    assert job.restarts == 0


def test_one_element_of_an_array_is_requeued(reference, submit):
    job = submit("array", "--seeds", "0-1", holds="0:train:4:0")
    first, second = (job.element(number) for number in (0, 1))
    second.notes.mkdir(exist_ok=True)
    second.go_on(0)
    first.held(0, 0)
    first.signal("USR1")
    for element in (first, second):
        element.finish()
    assert (first.restarts, second.restarts) == (1, 0)
    assert_same_outcome(first, reference, starts=2)
    assert Run(second.run).figures("train/loss") != Run(reference.run).figures("train/loss")


def test_two_by_two_ranks_take_the_same_batches(reference, submit):
    job = submit("square", "--nodes", "2", "--tasks", "2")
    job.finish()
    batches = [
        [sorted(pair for rank in ranks for pair in rank[step]) for step in range(1, 9)]
        for ranks in (job.samples(4), reference.samples(2))
    ]
    assert batches[0] == batches[1]
    losses, others = (Run(run.run).figures("train/loss") for run in (job, reference))
    assert losses == pytest.approx(others, abs=1e-3)
