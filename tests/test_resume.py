"""Going on with a run: exactly as if it had not stopped, or not at all."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from child_process import SECONDS, child_process
from tiny import tiny_base
from training import assert_same_training_state, contents, recorded_keys, refused

from anyscene.cli import main
from anyscene.run_folder import IDENTITY

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_going_on_is_the_same_as_not_stopping(accumulate, whole, workspace):
    """3 + 3 steps against 6: weights, average, optimizer, batches, figures, bit for bit."""
    run, keys = whole
    if accumulate > 1:
        with recorded_keys() as keys:
            run = workspace.train("split", "train.accumulate=2")
    copy = workspace.killed_copy(run, f"resumed-{accumulate}", 3)
    options = [workspace.judge] if accumulate == 1 else ["train.accumulate=2"]
    with recorded_keys() as resumed:
        workspace.train(copy.folder.name, *options)
    assert resumed == keys[3 * accumulate :]
    assert len(resumed) == 3 * accumulate
    assert_same_training_state(copy.state(6), run.state(6))
    for name in ("train/loss", "train/learning_rate", "val/loss"):
        assert copy.figures(name) == run.figures(name)
    if accumulate == 1:
        assert copy.figures("val/psnr_in_mask") == run.figures("val/psnr_in_mask")
    record = json.loads((copy.folder / "run.json").read_text())
    assert record["run_id"] == json.loads((run.folder / "run.json").read_text())["run_id"]
    assert len(record["jobs"]) == 2


def test_other_weights_do_not_pass_for_the_same(whole):
    state = whole[0].state(6)
    changed = whole[0].state(6)
    next(iter(changed["state_dict"].values())).flatten()[0] += 1e-6
    with pytest.raises(AssertionError):
        assert_same_training_state(state, changed)
    with pytest.raises(AssertionError):
        assert_same_training_state(state, whole[0].state(3))


def test_a_damaged_checkpoint_falls_back_loudly(whole, workspace, capsys):
    run, _ = whole
    copy = workspace.killed_copy(run, "damaged", 6)
    copy.checkpoint(6).write_bytes(copy.checkpoint(6).read_bytes()[:-100])
    later = copy.folder / "samples" / "step-00000005"  # of an earlier life, with other settings
    later.mkdir(parents=True)
    workspace.train("damaged", workspace.judge)
    assert not later.exists()
    errors = capsys.readouterr().err
    assert f"WARNING: {copy.checkpoint(6)} has" in errors
    assert "falling back to the checkpoint before" in errors
    assert_same_training_state(copy.state(6), run.state(6))

    for step in (3, 6):
        copy.checkpoint(step).write_bytes(b"")
    assert main(workspace.command("damaged")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("anyscene: all 2 checkpoints in")


def test_a_finished_run_is_left_as_it_is(whole, workspace, capsys):
    run = workspace.killed_copy(whole[0], "finished", 6)
    before = contents(run.folder)
    workspace.train("finished", workspace.judge)
    after = contents(run.folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"run.json", "config.yaml"}  # one more start, and the name of the copy
    assert before.keys() == after.keys()
    assert capsys.readouterr().out.endswith(f"run folder: {run.folder}\n")


def test_fewer_steps_than_are_done_change_nothing(whole, workspace):
    """A second validation of the last step was logged beside the first."""
    run = workspace.killed_copy(whole[0], "fewer", 6)
    before = run.csv.read_bytes()
    workspace.train("fewer", workspace.judge, "train.steps=5")
    assert run.csv.read_bytes() == before


def test_a_resume_takes_the_rate_that_it_is_given(whole, workspace):
    workspace.killed_copy(whole[0], "slower", 3)
    other = ("train.learning_rate=0.005", "train.weight_decay=0.5", "train.betas=[0.5,0.25]")
    run = workspace.train("slower", workspace.judge, *other)
    rates, before = (one.figures("train/learning_rate") for one in (run, whole[0]))
    assert rates.keys() == before.keys() == set(range(1, 7))
    for step, rate in rates.items():
        assert rate == pytest.approx(before[step] * (0.5 if step > 3 else 1))
    (group,) = run.state(6)["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], tuple(group["betas"])) == (0.5, (0.5, 0.25))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.resume=never"], ["train.resume=never, but", "holds a run", "train.resume=auto"]),
        (["data.batch_size=2"], ["data.batch_size is 2", "made with 4", "give 4 again"]),
        (["train.seed=5"], ["train.seed is 5", "made with 0"]),
        (["data.shuffle_window=2"], ["data.shuffle_window is 2", "made with 4096"]),
        (["debug.overfit=1"], ["debug.overfit is 1", "made with 0"]),
        (["fim.hint=latent"], ["fim.hint is latent", "made with pixel"]),
        (["fim.embedder_channels=[8,8,16]"], ["[8, 8, 16]", "made with [16, 32, 96]"]),
        (["fim.transformer_layers=[0,0]"], ["layers is [0, 0]", "made with [0, 1]"]),
        (["train.trainable=unet", "train.injection=none"], ["is unet", "made with fim"]),
    ],
)
def test_what_a_resume_must_not_change(overrides, parts, whole, workspace, capsys):
    run, _ = whole
    before = contents(run.folder)
    line = refused(workspace.command("whole", *overrides), capsys)
    for part in parts:
        assert part in line
    assert contents(run.folder) == before


def test_a_resume_needs_its_base_and_its_data(whole, workspace, capsys, tmp_path, demo_shards):
    run, _ = whole
    before = contents(run.folder)
    other = tiny_base(tmp_path / "other", seed=1)
    line = refused(workspace.command("whole", f"base.path={other}"), capsys)
    assert "the checkpoint was trained on a base with sha256" in line
    line = refused(workspace.command("whole", f"data.train={demo_shards / 'val'}"), capsys)
    assert "sha256 of data.train's manifest is" in line
    assert contents(run.folder) == before
    moved = shutil.copytree(demo_shards / "train", tmp_path / "moved")
    workspace.killed_copy(run, "elsewhere", 6)
    workspace.train("elsewhere", f"data.train={moved}")  # the same data, so no other run


def test_going_on_from_a_path(whole, workspace, capsys):
    run, _ = whole
    path = run.checkpoint(3)
    branch = workspace.train("branch", f"train.resume={path}")
    assert list(branch.figures("train/loss")) == [4, 5, 6]
    assert_same_training_state(branch.state(6), run.state(6))
    ids = [json.loads((r.folder / "run.json").read_text())["wandb_id"] for r in (run, branch)]
    assert ids[0] != ids[1]  # a run of its own in W&B
    line = refused(workspace.command("whole", f"train.resume={path}"), capsys)
    assert "step-00000003.ckpt is older than step-00000006.ckpt" in line
    done = refused(workspace.command("done", f"train.resume={path}", "train.steps=3"), capsys)
    assert f"{path} is of step 3, so that train.steps=3 leaves none to train in" in done
    assert not workspace.run("done").folder.exists()  # it was one without a checkpoint
    damaged = workspace.yaml.parent / path.name
    damaged.write_bytes(path.read_bytes())
    line = refused(workspace.command("other", f"train.resume={damaged}"), capsys, code=1)
    assert "it was never finished" in line
    assert not workspace.run("other").folder.exists()


@pytest.mark.parametrize("resume", ["never", "path"])
def test_a_requeued_job_goes_on_with_its_own_run(resume, whole, workspace, monkeypatch, capsys):
    """`train.resume` is of its first start: what was refused then, and where it was to begin."""
    run, name = whole[0], f"requeued-{resume}"
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    gone = workspace.killed_copy(run, f"other-{resume}", 3).checkpoint(3)
    resume = f"train.resume={resume if resume == 'never' else gone}"
    words = workspace.command(name, resume, "data.val=null")
    assert main([*words, "train.steps=4"]) == 0
    begun = workspace.run(name)
    assert "train.resume=" in refused(words, capsys)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    shutil.rmtree(gone.parent)
    with recorded_keys() as keys:
        assert main(words) == 0
    assert len(keys) == 2
    assert_same_training_state(begun.state(6), run.state(6))
    monkeypatch.setenv("SLURM_JOB_ID", "78")  # another job, that died before it could be refused
    assert main(words) != 0


def test_a_run_keeps_its_identity_though_its_record_is_lost(whole, workspace):
    run, _ = whole
    copy = workspace.killed_copy(run, "no-record", 3)
    before = json.loads((copy.folder / "run.json").read_text())
    (copy.folder / "run.json").unlink()
    workspace.train("no-record", "train.steps=4", "data.val=null")
    after = json.loads((copy.folder / "run.json").read_text())
    assert {key: after[key] for key in IDENTITY} == {key: before[key] for key in IDENTITY}


def mixed_with_workers(demo_shards):
    """Two loader processes, a second data set, a checkpoint a step."""
    mix = f"data.mix={{{demo_shards / 'val'}: 0.5}}"
    return ["data.workers=2", mix, "train.checkpoint_every=1", "train.keep_checkpoints=9"]


@pytest.fixture(scope="module")
def mixed(workspace, demo_shards):
    """An uninterrupted run of six steps of a mix with loader processes, and its batches' keys."""
    with recorded_keys() as keys:
        run = workspace.train("mixed", *mixed_with_workers(demo_shards), "data.val=null")
    return run, keys


@pytest.mark.parametrize(("step", "workers"), [(1, 2), (2, 0), (4, 1), (5, 2)])
def test_stopping_at_any_step_with_loader_processes(step, workers, mixed, workspace, demo_shards):
    run, keys = mixed
    copy = workspace.killed_copy(run, f"mixed-{step}", step)
    options = [*mixed_with_workers(demo_shards), "data.val=null", f"data.workers={workers}"]
    with recorded_keys() as resumed:
        workspace.train(copy.folder.name, *options)
    assert resumed == keys[step:]
    assert_same_training_state(copy.state(6), run.state(6))


@pytest.mark.usefixtures("mixed")
def test_a_resume_needs_its_mix(workspace, demo_shards, capsys):
    for mix in ("data.mix={}", f"data.mix={{{demo_shards / 'val'}: 0.25}}"):
        line = refused(workspace.command("mixed", mix, "train.steps=9"), capsys)
        assert line.startswith("anyscene: data.mix (weights, and sha256 of the manifests) is [")


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4])
def test_a_killed_process_goes_on_as_if_nothing_had_happened(
    step, mixed, workspace, demo_shards, capsys
):
    """SIGKILL at a step, with loader processes, then the same command again; refused before it."""
    run, keys = mixed
    name = f"killed-{step}"
    options = [*mixed_with_workers(demo_shards), "data.val=null"]
    notes = workspace.yaml.parent / f"keys-of-{name}"
    notes.mkdir()
    program = [sys.executable, "-m", "record_keys", str(notes), *workspace.command(name, *options)]
    tests = REPOSITORY / "tests"
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}:{tests}"}
    killed = workspace.run(name)
    with child_process(program, cwd=tests, env=environment) as process:
        while not killed.checkpoint(step).with_suffix(".json").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        assert "is in use by another training" in refused(workspace.command(name, *options), capsys)
        process.send_signal(signal.SIGCONT)
        loaders = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
        assert len(loaders) == 2
        assert psutil.wait_procs(loaders, timeout=30)[1] == []
    seen = [json.loads(line) for line in (notes / "keys-0.jsonl").read_text().splitlines()]
    assert seen == keys[: len(seen)]
    with recorded_keys() as resumed:
        workspace.train(name, *options)
    assert step <= 6 - len(resumed) <= len(seen) <= 6
    assert resumed == keys[6 - len(resumed) :]
    assert_same_training_state(killed.state(6), run.state(6))
