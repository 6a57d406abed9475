"""Runs on a real Slurm that are stopped, and end as if they had not been."""

import pytest
from slurm import Job

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="session")
def reference(submit) -> Job:
    """The run that nothing disturbs."""
    job = submit("reference")
    job.finish()
    return job


def test_trial(reference, submit):
    print(reference.log)
    job = submit("usr1", hold="train:4:1")
    job.held(1)
    job.signal("USR1")
    job.finish()
    print(job.log)
    assert job.restarts == 1
    print(job.lines(0), job.lines(1))
