"""What a disturbed run has to end with: what the undisturbed one ended with."""

import json

from slurm_jobs import Job
from training import Run, assert_same_training_state

from anyscene.run_folder import ASIDE

FIGURES = ("train/loss", "train/learning_rate", "val/loss")


def assert_same_outcome(
    job: Job, reference: Job, *, starts: int | None = None, repeated: bool | None = None
) -> None:
    """Weights, average, optimizer, samples and figures are those of the reference, bit for bit.

    `repeated` says whether steps since the last checkpoint were lost and done again, as after a
    crash; None for what cannot be known.
    """
    own, other = Run(job.run), Run(reference.run)
    step = max(other.figures("train/loss"))
    assert_same_training_state(own.state(step), other.state(step))
    for name in FIGURES:
        assert own.figures(name) == other.figures(name), name
    assert job.samples(2) == reference.samples(2)
    begun = job.begun_steps()
    if repeated is not None:
        assert (begun != list(range(1, step + 1))) == repeated, begun
    assert_one_run(job, starts)


def assert_one_run(job: Job, starts: int | None) -> None:
    """One identity over its starts, nothing left of what was being written, and no more
    checkpoints than are kept, with one that looked damaged."""
    record = json.loads((job.run / "run.json").read_text())
    if starts is not None:
        assert len(record["jobs"]) == starts
    files = [path.name for path in job.run.rglob("*")]
    assert not [name for name in files if name.endswith(".part") or name.startswith("requeue-")]
    saved = [name for name in files if name.endswith(".ckpt")]
    aside = [name for name in saved if name.startswith(ASIDE)]
    assert len(saved) - len(aside) <= 3
    assert len(aside) <= 1
