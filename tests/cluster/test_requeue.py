"""Runs on a real Slurm that are asked to stop, and end as if they had not been."""

import json
from collections import Counter

import pytest
import scenarios
from slurm_outcome import assert_same_outcome
from training import Run

from anyscene.tracking.transaction_log import STEP, history_row, read_run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("job", [scenarios.signals], indirect=True, ids=[""])
def test_signals_at_any_time(job, reference):
    """W&B goes on in one run, which has every step once."""
    stops = [line for line in job.log.splitlines() if line.startswith("anyscene: stopped at")]
    steps = [int(line.split()[4].strip(",")) for line in stops]
    assert steps == [0, 3, 4]
    assert job.restarts == 3
    assert_same_outcome(job, reference, starts=4)
    wandb_id = json.loads((job.run / "run.json").read_text())["wandb_id"]
    records = list(read_run(job.run))
    assert {record.run.run_id for record in records if record.HasField("run")} == {wandb_id}
    rows = [history_row(record) for record in records if record.HasField("history")]
    losses = [(row[STEP], row["train/loss"]) for row in rows if "train/loss" in row]
    assert dict(losses) == Run(reference.run).figures("train/loss")
    assert set(Counter(step for step, _ in losses).values()) == {1}


@pytest.mark.parametrize("job", [scenarios.preempted], indirect=True, ids=[""])
def test_preemption_with_and_without_the_user_signal(job, reference):
    assert job.log.count("anyscene: stopped at step") == 2
    assert_same_outcome(job, reference, starts=3)


@pytest.mark.parametrize("job", [scenarios.array], indirect=True, ids=[""])
def test_one_element_of_an_array_is_requeued_and_a_cancelled_one_is_not(job, reference):
    """The cancelled one has saved where it was nevertheless, with a seed of its own."""
    second = job.at(job.run.with_name("array-1"))
    assert job.restarts == 1
    assert_same_outcome(job, reference, starts=2)
    assert Run(second.run).checkpoint(3).with_suffix(".json").exists()
    assert len(json.loads((second.run / "run.json").read_text())["jobs"]) == 1
    losses = Run(second.run).figures("train/loss")
    assert set(losses.values()).isdisjoint(Run(reference.run).figures("train/loss").values())


@pytest.mark.parametrize("job", [scenarios.square], indirect=True, ids=[""])
def test_two_by_two_ranks_take_the_same_batches(job, reference):
    batches = [
        [sorted(pair for rank in ranks for pair in rank[step]) for step in range(1, 9)]
        for ranks in (job.samples(4), reference.samples(2))
    ]
    assert batches[0] == batches[1]
    losses, others = (Run(run.run).figures("train/loss") for run in (job, reference))
    assert losses == pytest.approx(others, abs=1e-3)
