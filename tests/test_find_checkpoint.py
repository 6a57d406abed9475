"""Which checkpoint a start goes on from: on all ranks the same, and a requeued job with its own."""

from dataclasses import replace

import pytest
from test_checkpoint import save
from torch import distributed

from anyscene.config import Config
from anyscene.errors import ConfigError
from anyscene.run_folder import agreed, find_checkpoint


def test_ranks_agree_on_what_the_first_one_finds(monkeypatch):
    """Whatever another's network file system shows it: or else it would validate alone."""
    assert agreed(lambda: True)
    assert not agreed(lambda: False)
    rank = 0
    sent: list[bool] = []

    def broadcast(values: list[bool]) -> None:
        if rank == 0:
            sent[:] = values
        values[:] = sent

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(distributed, "broadcast_object_list", broadcast)
    for found in (True, False):
        rank = 0
        assert agreed(lambda: found) is found  # noqa: B023
        rank = 1
        assert agreed(pytest.fail) is found


def test_resume_never_refuses_checkpoints_without_a_run_json(tmp_path):
    config = Config(name="x")
    config = replace(config, train=replace(config.train, resume="never"))
    assert find_checkpoint(config, tmp_path) is None
    save(tmp_path / "checkpoints", 1)
    with pytest.raises(ConfigError, match=r"train\.resume=never, but .* holds a run"):
        find_checkpoint(config, tmp_path)


def test_a_requeued_job_goes_on_with_its_own_or_begins_again(tmp_path, monkeypatch):
    """One that was to begin with another run's checkpoint, and was killed in its own first one."""
    other, run = save(tmp_path / "other", 3), tmp_path / "run"
    config = Config(name="x")
    config = replace(config, train=replace(config.train, resume=str(other)))
    first = save(run / "checkpoints", 6)
    record = first.with_suffix(".json")
    (run / "run.json").write_text('{"jobs": [{"slurm_job_id": "77"}]}')
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(ConfigError, match="is older than step-00000006"):
        find_checkpoint(config, run)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert find_checkpoint(config, run) == first
    record.unlink()
    assert find_checkpoint(config, run) == other
    never = replace(config, train=replace(config.train, resume="never"))
    assert find_checkpoint(never, run) is None
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with pytest.raises(ConfigError, match="holds a run"):
        find_checkpoint(never, run)


def test_a_run_goes_on_from_a_path_that_is_as_new_as_its_own(tmp_path):
    config = Config(name="x")
    own, other = save(tmp_path / "run" / "checkpoints", 3), save(tmp_path / "other", 3)
    for path in (own, other):
        config = replace(config, train=replace(config.train, resume=str(path)))
        assert find_checkpoint(config, tmp_path / "run") == path
