"""Trackers: offline without an account, one identity over restarts, never in the way of a run."""

import json
from pathlib import Path

import pytest
import wandb
from tiny import tiny_config

from anyscene.tracking import build_loggers, finish_loggers


@pytest.fixture
def config(tiny_base_folder: Path, demo_shards: Path, tmp_path: Path, monkeypatch):
    """A configuration with a run folder, on a machine where nobody is logged in to W&B."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    (tmp_path / "run.json").write_text(json.dumps({"wandb_id": "tiny-1234"}))
    return tiny_config(tiny_base_folder, demo_shards, tmp_path, "log.logger=wandb")


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "wandb").glob("*-run-*"))


def test_offline_without_an_account_and_one_id_over_restarts(config, tmp_path, capsys):
    for start in (1, 2):
        (logger,) = build_loggers(config, tmp_path)
        assert logger.experiment.id == "tiny-1234"
        assert logger.experiment.settings.mode == "offline"
        logger.log_metrics({"train/loss": 0.5}, step=start)
        assert logger.experiment.summary["trainer/global_step"] == start
        finish_loggers([logger])
        assert wandb.run is None
    found = folders(tmp_path)
    assert all(name.startswith("offline-run-") and name.endswith("tiny-1234") for name in found)
    assert found
    output = capsys.readouterr()
    assert "W&B is offline; to upload later: wandb sync" in output.out
    assert "WARNING" not in output.err


def test_an_unreachable_server_does_not_stop_a_run(config, tmp_path, monkeypatch, capsys):
    real_init = wandb.init

    def init(mode: str, **options: object):
        if mode == "online":
            raise wandb.errors.CommError("no route\nto host")
        return real_init(mode=mode, **options)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_MODE", "online")
    loggers = build_loggers(config, tmp_path)
    finish_loggers(loggers)
    assert folders(tmp_path)
    warning = "WARNING: W&B cannot be used (no route to host); the run goes on offline\n"
    assert capsys.readouterr().err == warning


def test_no_tracker(config, tmp_path):
    config.log.logger = type(config.log.logger).none
    assert build_loggers(config, tmp_path) == []
