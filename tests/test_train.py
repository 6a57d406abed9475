"""Runs through the command line: what they leave, and the ways to train."""

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import SHORT_RUN, recorded_keys, refused, tensors

from anyscene.cli import main
from anyscene.config_io import load_config
from anyscene.visual import LINE_PIXELS, PADDING

DEMO_BASE = Path(__file__).resolve().parents[1] / "anyscene" / "assets" / "demo_base"


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
    assert len(record["jobs"]) == 1
    saved = load_config(run.folder / "config.yaml")
    overrides = [*SHORT_RUN, workspace.judge, "name=whole"]
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
    (average,) = (value for value in state["callbacks"].values() if "n_averaged" in value)
    names = {name.removeprefix("module.") for name in average} - {"n_averaged"}
    assert state["state_dict"].keys() == {f"trained.{name}" for name in names}
    assert not any("up_blocks" in name for name in names)  # a FIM has no decoder
    trained = sum(average[f"module.{name}"].nbytes for name in names)
    assert sum(value.nbytes for value in tensors(state).values()) < 4.01 * trained  # EMA, Adam
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


def test_more_steps_learn_a_single_sample_better(workspace):
    """On the shipped base, whose own image of the prompt is the start."""
    of_the_unet = ("train.trainable=unet", "train.injection=none", "train.ema_decay=0")
    options = ("debug.overfit=1", f"base.path={DEMO_BASE}", "data.val=null", *of_the_unet)
    with recorded_keys() as keys:
        found = []
        for steps, rate in ((1, 1e-30), (12, 3e-4)):
            changed = (f"train.steps={steps}", f"train.learning_rate={rate}", "data.batch_size=2")
            run = workspace.train(f"overfit-{steps}", *options, *changed, "train.prompt_dropout=0")
            found.append(run.figures("overfit/psnr")[steps])
    assert len({key for batch in keys for key in batch}) == 1
    assert found[1] > found[0] + 1
    with Image.open(run.folder / "samples/step-00000012/overfit.png") as picture:
        real, generated = tile(picture, 2), tile(picture, 3)
    psnr = -10 * np.log10(np.square(real - generated).mean())
    assert found[1] == pytest.approx(psnr, abs=0.1)


def tile(picture: Image.Image, column: int) -> np.ndarray:
    """The pixels, in [0, 1], of a column of a grid of one scene."""
    side = picture.height - LINE_PIXELS - 3 * PADDING
    left = picture.width - (4 - column) * (side + PADDING)
    top = LINE_PIXELS + 2 * PADDING
    return np.asarray(picture.convert("RGB").crop((left, top, left + side, top + side))) / 255


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
    options = ("train.steps=2", "train.validate_every=1", "train.learning_rate=1e-30")
    runs = [workspace.train(f"still-{number}", *options) for number in (0, 1)]
    values = [value for run in runs for value in run.figures("val/loss").values()]
    assert len(values) == 4
    assert len(set(values)) == 1


@pytest.mark.parametrize("key", ["data.train", "data.val"])
def test_scenes_of_a_size_that_the_base_cannot_take(key, workspace, demo_shards, tmp_path, capsys):
    """Also those of validation, which would stop the run when its time comes."""
    odd = shutil.copytree(demo_shards / key.removeprefix("data."), tmp_path / "odd")
    manifest = odd / "manifest.json"
    manifest.write_text(manifest.read_text().replace("64x64", "60x64"))
    line = refused(workspace.command("odd", f"{key}={odd}"), capsys)
    assert "has scenes of 60x64 pixels, but this base needs multiples of 8; prepare" in line
    assert not workspace.run("odd").folder.exists()


FULL, STALE = errno.ENOSPC, errno.ESTALE


@pytest.mark.parametrize(
    ("name", "number"),
    [("config.yaml", FULL), ("run.json", FULL), ("metrics.csv", FULL), ("run.json", STALE)],
)
def test_a_disk_that_is_full_at_the_start(name, number, workspace, tmp_path, monkeypatch, capsys):
    """Or that is a network's and not well. A write that fails does not say of which file."""
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(number, os.strerror(number))
        return replace(self, target)

    marker = tmp_path / "marker"
    monkeypatch.setenv("ANYSCENE_REQUEUE", str(marker))
    monkeypatch.setattr(Path, "replace", fail)
    line = refused(workspace.command("full", f"runs_dir={tmp_path}"), capsys)
    assert line == f"anyscene: {tmp_path / 'full' / name}: {os.strerror(number)}\n"
    assert marker.exists() == (number == STALE)  # another start would meet a full one again


def test_a_run_says_that_it_validates_on_what_it_trains_on(whole, workspace, demo_shards, capsys):
    workspace.killed_copy(whole[0], "overlap", 6)
    for split, lines in (("val", 0), ("train", 1)):
        workspace.train("overlap", workspace.judge, f"data.val={demo_shards / split}")
        assert capsys.readouterr().err.count("WARNING: 3 of the 3 validation samples") == lines


def test_damaged_data_ends_a_run_with_one_line(workspace, demo_shards, tmp_path, capsys):
    shards = Path(shutil.copytree(demo_shards / "train", tmp_path / "train"))
    for tar in shards.glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"LOST", 3))
    command = workspace.command("broken", f"data.train={shards}", "data.max_bad_share=0")
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"anyscene: \d+ of \d+ samples read are damaged, more than data.max_bad", line)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_on_a_gpu_goes_on_too(precision, whole, workspace):
    precise = f"train.precision={precision}"
    options = (precise, "train.channels_last=true", "fim.fit_embedder_steps=2")
    run = workspace.train(f"gpu-{precision}", *options)
    losses = run.figures("train/loss")
    assert losses[1] == pytest.approx(whole[0].figures("train/loss")[1], rel=0.05)
    copy = workspace.killed_copy(run, f"gpu-{precision}-resumed", 3)
    workspace.train(copy.folder.name, *options)
    assert copy.figures("train/loss") == pytest.approx(losses, rel=0.05)
    assert list(copy.figures("val/loss")) == [4, 6]
