"""Going on with other numbers of ranks: the same global batches, or one line with what works."""

import json
from dataclasses import replace

import pytest

from anyscene.config import BaseConfig, Config, DataConfig, TrainConfig
from anyscene.config_io import changed_values, save_config
from anyscene.elastic import fit_accumulation
from anyscene.errors import ConfigError, InputError
from anyscene.run_folder import prepare_run_folder


@pytest.fixture
def run(tmp_path):
    """A run that began on 2 x 2 ranks with 4 micro-batches of 2: a global batch of 32."""
    folder = tmp_path / "run"
    folder.mkdir()
    jobs = [{"nodes": 2, "devices": 2, "accumulate": 4}, {"nodes": 1, "devices": 1}]
    (folder / "run.json").write_text(json.dumps({"jobs": jobs}))
    return folder


def configured(run, nodes: int, devices: int, accumulate: int = 4, **train) -> Config:
    return Config(
        name=run.name,
        runs_dir=str(run.parent),
        base=BaseConfig("base"),
        data=DataConfig("shards", batch_size=32),
        train=TrainConfig(9, nodes=nodes, devices=devices, accumulate=accumulate, **train),
    )


@pytest.mark.parametrize(
    ("nodes", "devices", "accumulate"),
    [(2, 2, 4), (1, 1, 16), (1, 2, 8), (4, 2, 2), (4, 4, 1), (8, 4, 1)],
)
def test_micro_batches_stay_or_shrink(nodes, devices, accumulate, run):
    fitted = fit_accumulation(configured(run, nodes, devices))
    assert fitted.train.accumulate == accumulate
    assert 32 // (nodes * devices * accumulate) == min(2, 32 // (nodes * devices))


def test_the_change_is_told(run, capsys):
    fit_accumulation(configured(run, 1, 1))
    told = "train.accumulate=16 instead of 4: 1 ranks go on with global batches of 32\n"
    assert capsys.readouterr().err == told
    fit_accumulation(configured(run, 2, 2))
    assert capsys.readouterr().err == ""


def test_ranks_that_cannot_share_the_batch_are_told_those_that_can(run):
    with pytest.raises(ConfigError, match=r"3 x 2 = 6 ranks cannot .*: 1, 2, 4, 8, 16, 32$"):
        fit_accumulation(configured(run, 3, 2))


def test_a_smaller_batch_is_left_for_the_resume_to_refuse(run):
    """One smaller than the pieces of the first start was a traceback."""
    smaller = replace(configured(run, 2, 2), data=DataConfig("shards", batch_size=8))
    assert fit_accumulation(smaller).data.batch_size == 8


def test_what_the_user_changed_stays(run):
    assert fit_accumulation(configured(run, 1, 2, accumulate=2)).train.accumulate == 2


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_run_json_is_told_in_one_line(content, run):
    (run / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json is damaged \(.*\); restore it .*ids$"):
        fit_accumulation(configured(run, 2, 2))


def test_a_new_run_stays_as_it_is(tmp_path, run):
    new = configured(tmp_path / "new", 3, 1)
    assert fit_accumulation(new) is new
    never = configured(run, 1, 1, resume="never")
    assert fit_accumulation(never) is never


def test_changed_values_are_named_with_both(tmp_path, run):
    path = tmp_path / "config.yaml"
    assert changed_values(path, configured(run, 1, 1)) == {}
    save_config(configured(run, 1, 1), path)
    assert changed_values(path, configured(run, 1, 1)) == {}
    now = configured(run, 2, 1, betas=[0.5, 0.9])
    expected = {"train.nodes": [1, 2], "train.betas": [[0.9, 0.999], [0.5, 0.9]]}
    assert changed_values(path, now) == expected


@pytest.mark.parametrize("fails", ["write_json", "save_config"])
def test_a_change_is_recorded_though_its_first_start_failed(fails, tmp_path, monkeypatch):
    """On a full disk, say: the next start does not take the changed values for the former ones."""
    run = tmp_path / "new"
    prepare_run_folder(run, configured(run, 2, 1), "0", 0)

    def fail(*_: object) -> None:
        raise OSError("full")

    changed = configured(run, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(f"anyscene.run_folder.{fails}", fail)
        with pytest.raises(OSError, match="full"):
            prepare_run_folder(run, changed, "0", 3)
    prepare_run_folder(run, changed, "0", 3)
    jobs = json.loads((run / "run.json").read_text())["jobs"]
    assert jobs[-1]["changed"] == {"train.nodes": [2, 1]}
    assert jobs[0]["changed"] == {}
