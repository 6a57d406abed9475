"""`prepare refine`: what the shards hold, killed or in parts, and what is refused."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_folders import (
    ARGUMENTS,
    SIZE,
    Members,
    drawn_sample,
    elements_of,
    png,
    rewrite,
    write_manifest,
    write_shards,
)
from small_cache import samples_of
from small_coco import file_bytes
from tiny_sam import tiny_sam

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.data.stream import Slot
from anyscene.data.transforms import decode
from anyscene.errors import InputError
from anyscene.metrics.sam import SamSegmenter
from anyscene.models.base import weights_sha256
from data_prep import refine
from data_prep.parts import Part
from data_prep.preparation import Outcome, prepare
from data_prep.refine import Settings, prepare_refined
from data_prep.refine_sample import annotated_masks, refined_members
from data_prep.verify import verify

LEAST_IOU = 0.07
SAMPLES = 6  # of which every other one has two elements: nine in all


def at_the_border(number: int) -> Outcome:
    """A drawn sample ten rows higher: its tile touches the border, as a random SAM's masks do."""
    outcome = drawn_sample(number)
    assert outcome.sample
    members = outcome.sample.members
    numbers, elements = elements_of(members)
    numbers = np.roll(numbers, -10, axis=0)
    for element in elements:
        element["box_xywh"][1] -= 10
    meta = json.loads(members["meta.json"]) | {"elements": elements}
    members |= {"mask.png": png((numbers > 0) * np.uint8(255)), "elements.png": png(numbers)}
    members |= {"meta.json": json.dumps(meta).encode()}
    return outcome


def write_source(folder: Path) -> Path:
    numbers = range(1, SAMPLES + 1)
    prepare(folder, ARGUMENTS, numbers, at_the_border, workers=1, shard_samples=2)
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A random SAM finds nothing of use: at so low a bound some of its masks are taken."""
    return Settings(str(tiny_sam(tmp_path_factory.mktemp("sam"))), LEAST_IOU, device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("refined") / "whole"
    prepare_refined(str(source), out, settings)
    return out


def test_refined_shards_are_the_sources_but_for_the_masks(
    source: Path, whole: Path, settings: Settings
) -> None:
    there, here = ShardManifest.read(source), ShardManifest.read(whole)
    assert here.filters == ARGUMENTS.filters | {
        "source_manifest_sha256": there.sha256(),
        "sam_sha256": weights_sha256(SamSegmenter.from_pretrained(settings.sam)),
        "least_iou": LEAST_IOU,
        "device": "cpu",
    }
    assert here.tools.keys() > {"torch", "transformers", "anyscene"}
    assert [(r.name, r.samples) for r in here.shards] == [(r.name, r.samples) for r in there.shards]
    theirs, ours = samples_of(source), samples_of(whole)
    assert list(ours) == list(theirs)
    assert all(ours[key]["scene.png"] == theirs[key]["scene.png"] for key in theirs)
    kept = sum(n for reason, n in here.rejected.items() if reason.startswith("refinement"))
    assert 0 < kept < 9
    changed = [key for key in theirs if ours[key] != theirs[key]]
    assert 0 < len(changed) <= 9 - kept
    assert verify(whole, workers=1).damages == []
    assert (whole / "manifest.json").read_text() == here.to_json()


def test_masks_are_those_that_sam_finds(source: Path, whole: Path, settings: Settings) -> None:
    sam = SamSegmenter.from_pretrained(settings.sam)
    ours = samples_of(whole)
    for key, members in samples_of(source).items():
        sample = decode(Slot(0, 0, 0, 0), key, members, (SIZE, SIZE), None)
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
        masks = torch.from_numpy(annotated_masks(sample)).float()[:, None]
        found = np.concatenate([sam(image, mask[None])[0].numpy() > 0.5 for mask in masks])
        expected = refined_members(sample, members, found, settings.least_iou, 0, Counter())
        assert ours[key] == expected


def test_how_many_were_refined_is_told(
    source: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counted on the shards: the same in a run that had little left to do, and of a refined set."""
    manifest = prepare_refined(str(source), tmp_path / "out", settings)
    kept = sum(n for reason, n in manifest.rejected.items() if reason.startswith("refinement"))
    told = capsys.readouterr().out
    assert f"{9 - kept} of 9 masks refined; annotations kept: SAM's mask " in told
    (tmp_path / "out" / "train-000001.tar").unlink()
    prepare_refined(str(source), tmp_path / "out", settings)
    assert capsys.readouterr().out == told
    strict = replace(settings, least_iou=1.0)
    prepare_refined(str(tmp_path / "out"), tmp_path / "again", strict)
    told = capsys.readouterr().out
    assert "0 of 9 masks refined; annotations kept: SAM's mask agrees too little (9)" in told


def test_a_killed_run_is_continued_to_the_same_bytes(
    source: Path,
    whole: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    original = refine.refined_members

    def killed(*arguments: Any) -> Members:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(refine, "refined_members", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_refined(str(source), tmp_path, settings)
    assert not (tmp_path / "manifest.json").exists()
    prepare_refined(str(source), tmp_path, settings)
    assert calls == 4 + 4  # the first shard is not made again
    assert file_bytes(tmp_path) == file_bytes(whole)


def test_parts_together_are_the_whole(
    source: Path, whole: Path, settings: Settings, tmp_path: Path
) -> None:
    for index in range(2):
        prepare_refined(str(source), tmp_path, settings, part=Part(index, 2))
    joined = ShardManifest.read(tmp_path)
    assert samples_of(tmp_path) == samples_of(whole)
    assert joined.rejected == ShardManifest.read(whole).rejected


def test_damaged_samples_are_left_out(settings: Settings, tmp_path: Path) -> None:
    """Those whose elements are wrong, too, which a training does not look at."""

    def change(samples: list[tuple[str, Members]]) -> None:
        samples[0][1].pop("mask.png")
        meta = json.loads(samples[1][1]["meta.json"])
        meta["elements"] *= 2
        samples[1][1]["meta.json"] = json.dumps(meta).encode()

    folder = write_source(tmp_path / "source")
    rewrite(folder, change)
    manifest = prepare_refined(str(folder), tmp_path / "out", settings)
    assert manifest.samples == SAMPLES - 2
    assert manifest.rejected["damaged sample: mask.png is missing"] == 1
    assert manifest.rejected["damaged sample: elements.png has [1], meta.json 2 elements"] == 1
    assert verify(tmp_path / "out", workers=1).damages == []


def test_the_command_line(source: Path, whole: Path, settings: Settings, tmp_path: Path) -> None:
    words = ["prepare", "refine", str(source), f"--sam={settings.sam}", "--device=cpu"]
    out = f"--out={tmp_path / 'out'}"
    assert main([*words, out, f"--least-iou={LEAST_IOU}"]) == 0
    assert file_bytes(tmp_path / "out") == file_bytes(whole)


def test_the_help_says_that_the_default_was_not_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "refine", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    default = Settings("sam").least_iou
    assert f"the default of {default} is our own choice, which was not measured" in told


def test_what_cannot_be_refined_is_one_line(
    source: Path, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(shards: Path, **changed: Any) -> str:
        with pytest.raises(InputError) as caught:
            prepare_refined(str(shards), tmp_path / "out", replace(settings, **changed))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    cache = write_shards(tmp_path / "cache", cached=True, samples=2)
    assert "is a cache; refine the shards that it was made from" in refused(cache)
    assert "no shards in" in refused(tmp_path)
    assert "--least-iou 0 must be above 0" in refused(source, least_iou=0)
    manifest = ShardManifest.read(write_shards(tmp_path / "forged", samples=2))
    write_manifest(tmp_path / "forged", replace(manifest, filters={"soften": "much"}))
    assert "soften='much', which must be a number of pixels" in refused(tmp_path / "forged")
    assert "could not be loaded" in refused(source, sam=str(source))
    words = ["prepare", "refine", str(source), "--sam=x", f"--out={tmp_path}", "--least-iou=2"]
    assert main(words) == 2
    assert "--least-iou 2.0 must be above 0 and at most 1" in capsys.readouterr().err
