"""A fine-tune: what it is kept under, how it goes on, and the settings that are refused."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from anyscene.benchmark import fine_tune as fine_tune_module
from anyscene.benchmark.fine_tune import (
    LOCK,
    Concept,
    FineTune,
    current_shards,
    last_weights,
    learn,
)
from anyscene.benchmark.fine_tune_settings import DEFAULTS, Kind, parse_settings
from anyscene.benchmark.scenes import Benchmark
from anyscene.checkpoint import write_checkpoint
from anyscene.config import Precision
from anyscene.data.sample import ShardManifest
from anyscene.data.shards import read_batches
from anyscene.errors import DamageError, InputError
from anyscene.files import sole_use
from anyscene.models.loading import load_base
from anyscene.module import SceneModule


def photos_fine_tune(kind: Kind, base: Path, benchmark: Benchmark, *changes: str) -> FineTune:
    """A fine-tune on the mug without class images."""
    photos = tuple(benchmark.folder / name for name in benchmark.subjects["mug"]["photos"])
    return FineTune(
        kind=kind,
        settings=parse_settings(
            kind, ["steps=2", "batch=1", "prior_images=0", "learning_rate=0.01", *changes]
        ),
        concepts=(Concept("mug", "mug", "<new1>", "red", photos),),
        base=str(base),
        base_sha256=load_base(str(base)).sha256(),
        pixels=64,
        precision=Precision.fp32,
        class_images={},
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background commands with SIGINT ignored, and Lightning leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("kind", "stop", "status"),
    [(Kind.dreambooth, signal.SIGINT, 1), (Kind.custom_diffusion, signal.SIGTERM, 143)],
)
def test_fine_tune_goes_on_where_it_was_stopped(
    kind: Kind,
    stop: signal.Signals,
    status: int,
    subject_set: Benchmark,
    base: Path,
    tmp_path: Path,
    monkeypatch: Any,
):
    """With the status by which a job's script asks for another start, where it was a SIGTERM."""
    fine_tune = photos_fine_tune(kind, base, subject_set, "steps=4")
    whole = learn(fine_tune, tmp_path / "whole")
    step, done = SceneModule.training_step, []

    def stopped(self: Any, batch: Any, number: int) -> Any:
        done.append(number)
        if len(done) == 3:
            os.kill(os.getpid(), stop)
        return step(self, batch, number)

    monkeypatch.setattr(SceneModule, "training_step", stopped)
    with pytest.raises(SystemExit) as ended:
        learn(fine_tune, tmp_path / "killed")
    assert ended.value.code == status
    again = learn(fine_tune, tmp_path / "killed")
    assert 3 < len(done) < 3 + 4  # not from the start
    assert whole.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    monkeypatch.setattr(SceneModule, "training_step", None)
    assert learn(fine_tune, tmp_path / "killed").keys() == whole.keys()  # read, not made


def test_weights_before_the_last_step_are_not_taken_for_the_trained_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for step in (1, 2):
        state = {"global_step": step, "state_dict": {"trained.weight": torch.full((1,), step)}}
        write_checkpoint(state, tmp_path / "checkpoints" / f"step-{step:08d}.ckpt")
    assert last_weights(tmp_path, 2) == {"weight": torch.tensor([2])}
    (tmp_path / "checkpoints" / "step-00000002.ckpt").write_bytes(b"damaged")
    with pytest.raises(DamageError, match="no undamaged checkpoint of its last step, 2"):
        last_weights(tmp_path, 2)
    assert "falling back" in capsys.readouterr().err


def test_fine_tune_that_another_process_learns_is_waited_for(
    subject_set: Benchmark,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    fine_tune = photos_fine_tune(Kind.dreambooth, base, subject_set)
    folder, told = fine_tune.folder(tmp_path), threading.Event()
    folder.mkdir()

    def other() -> None:
        with sole_use(folder / LOCK):
            held.set()
            told.wait(60)
            save_file({"weight": torch.ones(1)}, folder / "trained.safetensors")

    held, process = threading.Event(), threading.Thread(target=other)
    process.start()
    held.wait(60)
    flock = fcntl.flock

    def asked(file: Any, how: int) -> None:
        if how == fcntl.LOCK_EX:
            told.set()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", asked)
    monkeypatch.setattr(fine_tune_module, "training_shards", None)  # nothing is begun
    assert learn(fine_tune, tmp_path)["weight"] == 1
    process.join()
    assert "another process works in it; waiting" in capsys.readouterr().out


def test_fine_tune_begins_anew_where_its_class_images_have_changed(
    subject_set: Benchmark, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """As they do where they are lost, and a GPU of another kind makes them again."""
    images = tmp_path / "class-images"
    images.mkdir()
    fine_tune = replace(
        photos_fine_tune(Kind.dreambooth, base, subject_set, "prior_images=1"),
        class_images={"mug": images},
    )
    folder = tmp_path / "mug"
    (folder / "run").mkdir(parents=True)
    made = []
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(images / "000000.png")
        _, classes = current_shards(fine_tune, folder)
        assert classes is not None
        made.append(read_batches(ShardManifest.read(classes), 1)[0]["scene_uint8"][0, :, 0, 0])
        assert (folder / "run").is_dir() == (colour == "red")
    assert [pixel.tolist() for pixel in made] == [[255, 0, 0], [0, 0, 255]]
    assert capsys.readouterr().out.count("mug: begun anew") == 1


def test_folder_tells_what_made_it_apart(subject_set: Benchmark, base: Path, tmp_path: Path):
    fine_tune = photos_fine_tune(Kind.dreambooth, base, subject_set)
    others = [
        photos_fine_tune(Kind.dreambooth, base, subject_set, "steps=9"),
        photos_fine_tune(Kind.dreambooth, base, subject_set, "seed=1"),
        photos_fine_tune(Kind.custom_diffusion, base, subject_set),
    ]
    rex = subject_set.folder / subject_set.subjects["rex"]["photos"][0]
    concept = Concept("mug", "mug", "<new1>", "red", (rex,))
    others.append(FineTune(**{**vars(fine_tune), "concepts": (concept,)}))
    others.append(FineTune(**{**vars(fine_tune), "base_sha256": "0"}))
    folders = {one.folder(tmp_path) for one in (fine_tune, *others)}
    assert len(folders) == 6
    assert fine_tune.folder(tmp_path) == photos_fine_tune(
        Kind.dreambooth, base, subject_set
    ).folder(tmp_path)


def test_training_leaves_the_arithmetic_of_sampling_alone(
    subject_set: Benchmark, base: Path, tmp_path: Path
):
    before = torch.get_float32_matmul_precision()
    learn(photos_fine_tune(Kind.dreambooth, base, subject_set, "steps=1"), tmp_path)
    assert torch.get_float32_matmul_precision() == before


def test_defaults_are_the_papers():
    assert DEFAULTS[Kind.dreambooth].learning_rate == 5e-6
    assert DEFAULTS[Kind.custom_diffusion].steps == 250
    assert parse_settings(Kind.dreambooth, ["prior_weight=0.5"]).prior_weight == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["steps"], "must be KEY=VALUE"),
        (["step=3"], "did you mean 'steps'"),
        (["steps=1e3"], "steps must be a whole number"),
        (["learning_rate=low"], "learning_rate must be a number"),
        (["steps=0"], "steps=0 must be greater than 0"),
        (["learning_rate=nan"], "must be greater than 0"),
        (["prior_images=-1"], "must not be negative"),
    ],
)
def test_settings_of_a_fine_tune_that_cannot_be_used(changes: list[str], message: str):
    with pytest.raises(InputError, match=message):
        parse_settings(Kind.dreambooth, changes)
