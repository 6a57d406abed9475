"""Runs on a real Slurm whose processes, nodes, disks and checkpoints fail."""

import pytest
import scenarios
from slurm_outcome import assert_same_outcome
from training import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("job", [scenarios.killed], indirect=True, ids=[""])
def test_a_killed_rank_then_a_crashed_node_and_a_truncated_checkpoint(job, reference):
    assert f"WARNING: {Run(job.run).checkpoint(6)} has" in job.log
    assert "falling back to the checkpoint before" in job.log
    assert_same_outcome(job, reference, starts=3, repeated=True)


@pytest.mark.parametrize("job", [scenarios.full], indirect=True, ids=[""])
def test_a_full_disk_while_a_checkpoint_is_written(job, reference):
    assert_same_outcome(job, reference, starts=2, repeated=True)
