"""Runs through the command line: what they leave, how they go on, and what they refuse."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_base
from training import (
    SHORT_RUN,
    Run,
    Workspace,
    assert_same_training_state,
    recorded_keys,
    save_tiny_judge,
    tensors,
)

from anyscene.cli import main
from anyscene.config_io import load_config

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def workspace(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    return Workspace.make(tiny_base_folder, demo_shards, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(workspace: Workspace) -> tuple[Run, list[list[str]]]:
    """An uninterrupted run and the keys of its batches."""
    judge = save_tiny_judge(workspace.yaml.parent / "judge")
    with recorded_keys() as keys:
        run = workspace.train("whole", f"metrics.judge={judge}")
    return run, keys


def refused(arguments: list[str], capsys, code: int = 2) -> str:
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert main(arguments) == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_writes_its_figures(whole):
    run, _ = whole
    losses = run.figures("train/loss")
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert all(0 < loss < 100 for loss in losses.values())
    rates = run.figures("train/learning_rate")
    assert list(rates) == list(losses)
    for name in ("val/loss", "val/psnr_in_mask", "val/mask_iou", "val/place_accuracy"):
        assert list(run.figures(name)) == [4, 6], name
    assert run.figures("val/images") == {4: 3, 6: 3}
    assert all(speed > 0 for speed in run.figures("train/images_per_second").values())
    for step in (4, 6):
        metrics = run.folder / f"samples/step-{step:08d}/metrics.json"
        for name, value in json.loads(metrics.read_text()).items():
            assert run.figures(f"val/{name}")[step] == value
        picture = (metrics.parent / "grid.png").read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_a_run_says_what_made_it(whole, workspace, tiny_base_folder):
    run, _ = whole
    record = json.loads((run.folder / "run.json").read_text())
    assert record["run_id"].startswith("whole-")
    assert record["wandb_id"] == record["run_id"]
    assert record["base"]["path"] == str(tiny_base_folder)
    assert re.fullmatch("[0-9a-f]{64}", record["base"]["sha256"])
    assert {"anyscene", "torch", "diffusers"} <= record["versions"].keys()
    assert len(record["starts"]) == 1
    saved = load_config(run.folder / "config.yaml")
    overrides = [*SHORT_RUN, f"metrics.judge={workspace.yaml.parent / 'judge'}", "name=whole"]
    assert saved == load_config(workspace.yaml, overrides)


def test_a_checkpoint_holds_what_is_trained_and_no_more(whole):
    run, _ = whole
    record = json.loads(run.checkpoint(6).with_suffix(".json").read_text())
    data = run.checkpoint(6).read_bytes()
    assert record == {
        "step": 6,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    state = run.state(6)
    trained = sum(value.nbytes for value in state["state_dict"].values())
    assert sum(value.nbytes for value in tensors(state).values()) < 4.01 * trained  # + EMA + Adam
    assert len(data) < 4.01 * trained + 1200 * len(tensors(state))  # names and headers
    assert sorted(p.name for p in run.checkpoint(6).parent.iterdir()) == [
        f"step-0000000{step}.{kind}" for step in (3, 6) for kind in ("ckpt", "json")
    ]


def test_the_average_follows_the_weights(whole):
    run, _ = whole
    state = run.state(6)
    (average,) = (value for value in state["callbacks"].values() if "n_averaged" in value)
    assert int(average["n_averaged"]) == 6
    distances = []
    for name, value in state["state_dict"].items():
        own = average[name.replace("trained.", "module.")]
        distances.append(float((own - value).abs().max()))
    assert 0 < max(distances) < 0.1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_going_on_is_the_same_as_not_stopping(accumulate, whole, workspace):
    """3 + 3 steps against 6: weights, average, optimizer, batches, figures, bit for bit."""
    run, keys = whole
    if accumulate > 1:
        with recorded_keys() as keys:
            run = workspace.train("split", "train.accumulate=2")
    copy = workspace.killed_copy(run, f"resumed-{accumulate}", 3)
    judge = workspace.yaml.parent / "judge"
    options = [f"metrics.judge={judge}"] if accumulate == 1 else ["train.accumulate=2"]
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
    assert len(record["starts"]) == 2


def test_other_weights_do_not_pass_for_the_same(whole):
    state = whole[0].state(6)
    changed = whole[0].state(6)
    next(iter(changed["state_dict"].values())).flatten()[0] += 1e-6
    with pytest.raises(AssertionError):
        assert_same_training_state(state, changed)
    with pytest.raises(AssertionError):
        assert_same_training_state(state, whole[0].state(3))


def test_accumulation_changes_neither_loss_nor_gradient(whole, workspace):
    """Two micro-batches against one: Adam's first moment after a step is 0.1 of the gradient."""
    first, second = (
        workspace.train(
            f"accumulate-{parts}",
            "train.steps=1",
            f"train.accumulate={parts}",
            "train.clip_norm=1e9",
        )
        for parts in (1, 2)
    )
    assert second.figures("train/loss")[1] == pytest.approx(whole[0].figures("train/loss")[1])
    assert second.figures("train/loss") == pytest.approx(first.figures("train/loss"), rel=1e-5)
    moments = [
        {k: v for k, v in tensors(run.state(1)["optimizer_states"]).items() if "exp_avg" in k}
        for run in (first, second)
    ]
    gradients = [v for k, v in moments[0].items() if not k.endswith("_sq")]
    scale = max(float(value.abs().max()) for value in gradients)
    assert scale > 0
    for name, value in moments[0].items():
        torch.testing.assert_close(moments[1][name], value, rtol=1e-4, atol=1e-5 * scale)


def test_a_damaged_checkpoint_falls_back_loudly(whole, workspace, capsys):
    run, _ = whole
    copy = workspace.killed_copy(run, "damaged", 6)
    copy.checkpoint(6).write_bytes(copy.checkpoint(6).read_bytes()[:-100])
    judge = workspace.yaml.parent / "judge"
    workspace.train("damaged", f"metrics.judge={judge}")
    errors = capsys.readouterr().err
    assert f"WARNING: {copy.checkpoint(6)} has" in errors
    assert "falling back to the checkpoint before" in errors
    assert_same_training_state(copy.state(6), run.state(6))

    for step in (3, 6):
        copy.checkpoint(step).write_bytes(b"")
    assert main(workspace.command("damaged")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("anyscene: all 2 checkpoints in")


def test_a_finished_run_is_left_as_it_is(whole, workspace, capsys):
    run, _ = whole
    before = contents(run.folder)
    judge = workspace.yaml.parent / "judge"
    workspace.train("whole", f"metrics.judge={judge}")
    after = contents(run.folder)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"run.json"}  # one more start
    assert before.keys() == after.keys()
    assert capsys.readouterr().out.endswith(f"run folder: {run.folder}\n")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["train.resume=never"], ["train.resume=never, but", "holds a run", "train.resume=auto"]),
        (["data.batch_size=2"], ["data.batch_size is 2", "made with 4", "give 4 again"]),
        (["train.seed=5"], ["train.seed is 5", "made with 0"]),
        (["data.shuffle_window=2"], ["data.shuffle_window is 2", "made with 4096"]),
        (["debug.overfit=1"], ["debug.overfit is 1", "made with 0"]),
        (["fim.hint=latent"], ["fim.hint is latent", "made with pixel"]),
        (["train.trainable=unet"], ["train.trainable is unet", "made with fim"]),
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
    workspace.train("whole", f"data.train={moved}")  # the same data elsewhere is no other data


def test_going_on_from_a_path(whole, workspace, capsys):
    run, _ = whole
    path = run.checkpoint(3)
    branch = workspace.train("branch", f"train.resume={path}")
    assert list(branch.figures("train/loss")) == [4, 5, 6]
    assert_same_training_state(branch.state(6), run.state(6))
    line = refused(workspace.command("whole", f"train.resume={path}"), capsys)
    assert "step-00000003.ckpt is older than step-00000006.ckpt" in line
    damaged = workspace.yaml.parent / path.name
    damaged.write_bytes(path.read_bytes())
    line = refused(workspace.command("other", f"train.resume={damaged}"), capsys, code=1)
    assert "it was never finished" in line
    assert not workspace.run("other").folder.exists()


def test_overfitting_a_single_sample(workspace):
    with recorded_keys() as keys:
        run = workspace.train("overfit", "debug.overfit=1", "train.steps=2")
    assert len({key for batch in keys for key in batch}) == 1
    assert len(run.figures("train/loss")) == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.trainable=unet", "train.injection=none", "loss.weighting=snr_plus_one"),
        ("fim.hint=latent", "train.ema_decay=0", "data.workers=1"),
        ("fim.fit_embedder_steps=2", "fim.embedder_channels=[8,8,8]", "train.precision=bf16"),
        ("train.gradient_checkpointing=true", "log.progress_bar=true"),
        ("data.val=null", "train.channels_last=true"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_ways_to_train(overrides, workspace, capsys):
    name = re.sub(r"\W", "-", overrides[0])
    run = workspace.train(name, "train.steps=2", "train.validate_every=2", *overrides)
    assert all(loss < 100 for loss in run.figures("train/loss").values())
    assert list(run.figures("val/loss")) == ([] if overrides[0] == "data.val=null" else [2])
    output = capsys.readouterr()
    assert ("of the variance explained" in output.out) == ("fit_embedder" in overrides[0])
    assert ("train:" in output.err) == ("progress_bar" in overrides[1])


def test_validation_loss_is_at_fixed_noise(workspace):
    """With nothing learnt it stays the same to the last bit, in training and between runs."""
    runs = [
        workspace.train(f"still-{seed}", "train.learning_rate=1e-30", "train.validate_every=3")
        for seed in (0, 1)
    ]
    values = [value for run in runs for value in run.figures("val/loss").values()]
    assert len(values) == 4
    assert len(set(values)) == 1


@pytest.mark.slow
def test_a_killed_process_goes_on_as_if_nothing_had_happened(whole, workspace):
    """SIGKILL after the first checkpoint, then the same command again."""
    run, _ = whole
    judge = workspace.yaml.parent / "judge"
    command = workspace.command("killed", f"metrics.judge={judge}")
    program = [sys.executable, "-m", "anyscene.cli", *command]
    process = subprocess.Popen(program, cwd=REPOSITORY)
    killed = workspace.run("killed")
    while not killed.checkpoint(3).with_suffix(".json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    workspace.train("killed", f"metrics.judge={judge}")
    assert_same_training_state(killed.state(6), run.state(6))
    assert killed.figures("train/loss") == run.figures("train/loss")
