"""DreamBooth and Custom Diffusion on tiny bases: what is trained, kept, restored and refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import family_base
from safetensors.torch import load_file
from subject_photos import DREAMBOOTH

from anyscene.benchmark.likeness import Likeness
from anyscene.benchmark.methods import METHODS, NEEDS_NO_FOREGROUND, subject_driven
from anyscene.benchmark.methods.base import MethodSettings, method_class
from anyscene.benchmark.methods.subject_driven import CLASS_SEED, SubjectDriven
from anyscene.benchmark.run import Share, run
from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.subject_set import read_photo
from anyscene.benchmark.subject_shards import Picture, Recipe, make_shards, rescaled, sized_caption
from anyscene.cli import main
from anyscene.config import MetricsConfig, SampleConfig
from anyscene.config_io import read_config
from anyscene.data.shards import read_batches
from anyscene.errors import InputError
from anyscene.image_jobs import load_model
from anyscene.metrics.networks import Networks
from anyscene.models.concepts import KEYS_AND_VALUES
from anyscene.models.loading import load_base
from anyscene.module import SceneModule
from anyscene.scene_list import GenerateSettings

SETTINGS = GenerateSettings(steps=2, guidance_scale=2.0, micro_batch=2, device="cpu")
SMALL = ("steps=2", "batch=1", "prior_images=2", "learning_rate=0.01")
SUBJECT_DRIVEN = ("dreambooth", "custom_diffusion")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("custom_diffusion", "sd15"),
        pytest.param("custom_diffusion", "sdxl", marks=pytest.mark.slow),
        pytest.param("dreambooth", "sd15", marks=pytest.mark.slow),
        pytest.param("dreambooth", "sdxl", marks=pytest.mark.slow),
    ],
)
def test_subjects_are_learnt_kept_and_shown(
    name: str, family: str, subject_set: Benchmark, tmp_path: Path
):
    """Also: after another subject was learnt, class images are still of the base itself."""
    model = str(family_base(tmp_path / family, family))
    out, kept = tmp_path / "out", tmp_path / "kept"
    lines = run(subject_set, name, model, out, SETTINGS, fine_tunes=kept, fine_tune=SMALL)
    assert [line["prompt"] for line in lines] == [scene["prompt"] for scene in subject_set.scenes]
    assert [line["canvas"] is None for line in lines] == [False, True, True]
    folders = sorted(kept.glob(f"{name}-*"))
    assert len(folders) == 3  # mug, rex and both
    assert not list(kept.glob("*/run/checkpoints"))

    for folder in folders:
        config = read_config(folder / "run" / "config.yaml")
        assert config.train.steps == (4 if "mug--rex" in folder.name else 2)
        assert config.loss.prior_weight == 1

    before = load_base(model).state_dict()
    for folder in folders:
        weights = load_file(folder / "trained.safetensors")
        named = before if name == "custom_diffusion" else {n[5:]: v for n, v in before.items()}
        for key, value in weights.items():
            if key.endswith(".rows"):
                assert len(value) == (2 if "mug--rex" in folder.name else 1)
            else:
                assert key in named
        changed = [k for k, v in weights.items() if k in named and not torch.equal(v, named[k])]
        assert len(changed) > 3
        if name == "custom_diffusion":
            assert all(k.endswith((*KEYS_AND_VALUES, ".rows")) for k in weights)
        else:
            assert set(weights) == {k[5:] for k in before if k.startswith("unet.")}

    images = {p.parent.name.split("-")[0]: p for p in kept.glob("class-images/*/000001.png")}
    before_any = {noun: path.read_bytes() for noun, path in images.items()}
    assert set(before_any) == {"mug", "dog"}
    shutil.rmtree(kept / "class-images")
    for line in ("dog", "mug"):  # the other way round, by a model that has learnt nothing
        again = method_of(name, model, subject_set, kept).class_images(line)
        assert (again / "000001.png").read_bytes() == before_any[line]

    record = json.loads((out / "run.json").read_text())
    assert record["fine_tune"]["steps"] == 2
    plain = run(subject_set, "stable_diffusion", model, tmp_path / "text", SETTINGS)
    assert all(a["sha256"] != b["sha256"] for a, b in zip(lines, plain, strict=True))


def method_of(name: str, model: str, benchmark: Benchmark, kept: Path) -> Any:
    """The method as a run has it, before it has learnt anything."""
    sample = SampleConfig(steps=2, guidance_scale=2.0, micro_batch=2)
    given = MethodSettings(sample, benchmark=benchmark, fine_tunes=kept, fine_tune=SMALL)
    return method_class(name)(load_model(model, "fp32", "cpu"), given)


def test_parts_divide_the_subjects_and_give_the_images_of_the_whole(
    subject_set: Benchmark, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = {"fine_tunes": tmp_path / "kept", "fine_tune": SMALL}
    name, model, parts = "custom_diffusion", str(base), tmp_path / "parts"
    learnt: list[tuple[str, ...]] = []
    use = SubjectDriven.use
    monkeypatch.setattr(
        SubjectDriven, "use", lambda self, names: learnt.append(names) or use(self, names)
    )
    run(subject_set, name, model, parts, SETTINGS, share=Share(0, 2), **kept)
    assert set(learnt) == {("mug",), ("mug", "rex")}
    learnt.clear()
    run(subject_set, name, model, parts, SETTINGS, share=Share(1, 2), **kept)
    assert set(learnt) == {("rex",)}
    monkeypatch.setattr(SceneModule, "training_step", None)  # all is learnt already
    whole = run(subject_set, name, model, tmp_path / "whole", SETTINGS, **kept)
    text = (parts / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["sha256"] for line in text] == [line["sha256"] for line in whole]


def test_class_images_and_scenes_begin_with_other_noise():
    class_noise, scene_noise = (
        torch.randn(4, generator=torch.Generator().manual_seed(first + 7))
        for first in (CLASS_SEED, 0)
    )
    assert not torch.equal(class_noise, scene_noise)


def test_class_images_that_another_job_made_meanwhile_are_kept(
    subject_set: Benchmark, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    method = method_of("custom_diffusion", str(base), subject_set, tmp_path)
    method.settings = replace(method.settings, prior_images=4)
    folder, batches = method.class_folder("mug"), []
    sample = subject_driven.sample_scenes

    def sampled(*arguments: Any, **options: Any) -> Any:
        batches.append(arguments)
        folder.mkdir(parents=True)
        for number in range(4):
            (folder / f"{number:06d}.png").write_bytes(b"another job's")
        return sample(*arguments, **options)

    monkeypatch.setattr(subject_driven, "sample_scenes", sampled)
    assert method.class_images("mug") == folder
    assert len(batches) == 1  # of two
    assert {path.read_bytes() for path in folder.iterdir()} == {b"another job's"}


def test_views_of_a_photo_say_their_size_and_where_they_are(subject_set: Benchmark, tmp_path: Path):
    photo = subject_set.folder / subject_set.subjects["mug"]["photos"][0]
    recipe = Recipe(pixels=64, resized=True)
    manifest = make_shards([Picture(photo, "photo of a <new1> mug")], tmp_path / "photos", recipe)
    assert manifest.samples == 16
    batch = read_batches(manifest, 16)[0]
    covered = (batch["mask_uint8"] > 0).float().mean((1, 2, 3))
    assert covered.min() < 0.4
    assert covered.max() == 1
    for prompt, share in zip(batch["prompt"], covered.tolist(), strict=True):
        assert prompt.endswith("photo of a <new1> mug")
        assert prompt.startswith(("a far away ", "very small ")) == (share < 0.59**2)
    grey = batch["scene_uint8"][(batch["mask_uint8"] == 0).expand(-1, 3, -1, -1)]
    assert set(grey.tolist()) == {127}


def test_rescaled_picture_is_whole_or_cropped():
    random = np.random.default_rng(0)
    image = np.full((64, 64, 3), 9, np.uint8)
    small, mask = rescaled(image, 0.5, random)
    assert (mask > 0).sum() == 32 * 32 == (small[..., 0] == 9).sum()
    large, mask = rescaled(image, 1.4, random)
    assert large.shape == image.shape
    assert mask.min() == 255
    assert sized_caption("a cat", 0.8, random) == "a cat"
    assert sized_caption("a cat", 1.2, random).removesuffix("a cat") in ("zoomed in ", "close up ")


def test_pictures_are_repeated_for_a_large_batch(subject_set: Benchmark, tmp_path: Path):
    photo = subject_set.folder / subject_set.subjects["mug"]["photos"][0]
    manifest = make_shards([Picture(photo, "a mug")], tmp_path / "few", Recipe(64, least=3))
    assert manifest.samples == 3


def test_subject_methods_want_a_subject_set(
    demo_benchmark: Benchmark, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["benchmark", "run", str(demo_benchmark.folder), "--model", str(base)]
    arguments += ["--out", str(tmp_path / "out"), "--method"]
    for name in SUBJECT_DRIVEN:
        assert main([*arguments, name]) == 2
        told = capsys.readouterr().err
        assert "build a subject set with `anyscene benchmark build --subjects FOLDER`" in told
        assert told.count("\n") == 1
    assert main([*arguments, "paste", "--fine-tune", "steps=1"]) == 2
    assert "--fine-tune is for --method dreambooth and custom_diffusion" in capsys.readouterr().err
    assert main([*arguments, "paste", "--fine-tunes", str(tmp_path)]) == 2
    assert "--fine-tunes is for --method dreambooth and cust" in capsys.readouterr().err


def test_subject_methods_want_a_base(subject_set: Benchmark, tmp_path: Path):
    (tmp_path / "anyscene.json").write_text("{}")
    for name in SUBJECT_DRIVEN:
        with pytest.raises(InputError, match="without its base: give the base itself"):
            run(subject_set, name, str(tmp_path), tmp_path / "out", SETTINGS)


def test_methods_that_are_shown_a_foreground_want_one(
    subject_set: Benchmark, base: Path, tmp_path: Path
):
    for name in set(METHODS) - {*NEEDS_NO_FOREGROUND, "controlnet_canny", "known_shadow"}:
        with pytest.raises(InputError, match="scene rex-00 has none: put masks beside"):
            run(subject_set, name, str(base), tmp_path / name, SETTINGS)


def test_likeness_is_the_mean_cosine_with_the_photos_of_the_subject(
    subject_set: Benchmark, small_metrics: MetricsConfig
):
    """The photos themselves are as like their subject as they are like each other."""
    likeness = Likeness(subject_set, MetricsConfig(clip=small_metrics.clip), "cpu")
    assert likeness.missing == {"subject_dino_i": "metrics.dino is not given"}
    mug = [subject_set.folder / name for name in subject_set.subjects["mug"]["photos"]]
    shown = [torch.from_numpy(np.array(read_photo(path)[0])).permute(2, 0, 1) for path in mug]
    likeness.update([0, 2], torch.stack([shown[0], shown[0]]))  # of the mug, and of both
    clip = Networks(small_metrics).clip("clip")
    own, other = (clip(image[None].float() / 255)[0].double() for image in shown)
    cosine = torch.nn.functional.cosine_similarity(own, other, dim=0).item()
    values = likeness.values["subject_clip_i"]
    assert values[0] == pytest.approx((1 + cosine) / 2)
    assert np.isnan(values[1])
    rex = read_photo(subject_set.folder / subject_set.subjects["rex"]["photos"][0])[0]
    features = clip(torch.from_numpy(np.array(rex)).permute(2, 0, 1)[None].float() / 255)[0]
    with_rex = torch.nn.functional.cosine_similarity(own, features.double(), dim=0).item()
    assert values[2] == pytest.approx(((1 + cosine) / 2 + with_rex) / 2)


@pytest.mark.slow
def test_dreambooth_photos_are_learnt_scored_and_reported(
    base: Path, small_metrics: MetricsConfig, tmp_path: Path
):
    """The chain on real photos with a random tiny base: the code path, not the quality."""
    if not DREAMBOOTH.is_dir():
        pytest.skip(f"{DREAMBOOTH} is not here")
    source = tmp_path / "photos"
    for name in ("dog", "teapot"):
        shutil.copytree(DREAMBOOTH / name, source / name)
    listed = (DREAMBOOTH / "prompts_and_classes.txt").read_text()
    classes, _, prompts = listed.partition("\nPrompts")
    few = [line for line in classes.splitlines() if line in ("dog,dog", "teapot,teapot")]
    (source / "prompts_and_classes.txt").write_text("\n".join(few) + "\nPrompts" + prompts)
    folder = str(tmp_path / "set")
    build = ["benchmark", "build", folder, "--subjects", str(source)]
    assert main([*build, "--pixels", "64", "--prompts", "2", "--pairs", "1"]) == 0
    runs = []
    for name in (*SUBJECT_DRIVEN, "stable_diffusion"):
        runs += ["--run", str(tmp_path / name)]
        line = ["benchmark", "run", folder, "--method", name, "--model", str(base)]
        line += ["--out", str(tmp_path / name), "--steps", "2", "--micro-batch", "2"]
        small = [f"--fine-tune={change}" for change in SMALL] if name in SUBJECT_DRIVEN else []
        assert main([*line, *small]) == 0
    out = tmp_path / "scores"
    weights = [f"metrics.clip={small_metrics.clip}", f"metrics.inception={small_metrics.inception}"]
    weights.append(f"metrics.inception_sha256={small_metrics.inception_sha256}")
    score = ["benchmark", "score", folder, *runs, "--out", str(out), "--device", "cpu"]
    assert main([*score, *weights]) == 0
    assert main(["benchmark", "report", folder, *runs, "--out", str(out)]) == 0
    record = json.loads((out / "scores.json").read_text())
    for name in SUBJECT_DRIVEN:
        for metric in ("clip_score", "subject_clip_i"):
            assert record["methods"][name]["figures"][metric]["scenes"] == 6
    assert "image and real" in record["not_computed"]["fid"]
    assert "foreground" in record["not_computed"]["psnr_in_mask"]
    markdown = (out / "report.md").read_text()
    assert "A subject set" in markdown
    assert (out / "report" / "grid.png").stat().st_size > 1000
