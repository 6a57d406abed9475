"""`prepare cache`: what it keeps of the source, what it encodes, and how it is continued."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load
from shard_folders import Members, drawn_sample, rewrite, write_manifest, write_shards
from small_coco import file_bytes

from anyscene.cli import main
from anyscene.data.reader import ShardReader
from anyscene.data.sample import ShardManifest
from anyscene.data.stream import Slot
from anyscene.errors import InputError
from anyscene.models.loading import load_base
from data_prep import cache
from data_prep.cache import Settings, prepare_cache
from data_prep.parts import Part
from data_prep.shards import read_samples
from data_prep.verify import verify

KEPT = ("mask.png", "elements.png", "meta.json")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven samples in four shards."""
    return write_shards(tmp_path_factory.mktemp("source"), samples=7)


@pytest.fixture(scope="module", autouse=True)
def _bases_are_loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "load_base", lru_cache(load_base))
        yield


@pytest.fixture
def settings(tiny_base_folder: Path) -> Settings:
    return Settings(str(tiny_base_folder), dtype="fp32", device="cpu", batch_size=3)


@pytest.fixture(scope="module")
def whole(source: Path, tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of `source` in float32."""
    out = tmp_path_factory.mktemp("cache") / "whole"
    settings = Settings(str(tiny_base_folder), dtype="fp32", device="cpu", batch_size=3)
    prepare_cache(str(source), out, settings)
    return out


def samples_of(folder: Path) -> dict[str, Members]:
    """All samples of a folder by key, in the manifest's order."""
    manifest = ShardManifest.read(folder)
    return {
        key: members
        for number in range(len(manifest.shards))
        for key, members in read_samples(manifest.path(number))
    }


def scenes_of(folder: Path) -> torch.Tensor:
    """All scenes of a folder, N 3 H W in [-1, 1]."""
    manifest = ShardManifest.read(folder)
    reader = ShardReader(manifest)
    scenes = [
        reader.sample(Slot(0, 0, shard, sample)).image
        for shard, record in enumerate(manifest.shards)
        for sample in range(record.samples)
    ]
    reader.close()
    return torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float() / 255 * 2 - 1


def moments_of(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and deviations of all samples, N c h w."""
    stored = [load(members["latents.safetensors"]) for members in samples_of(folder).values()]
    return tuple(torch.stack([own[name] for own in stored]) for name in ("mean", "std"))


def test_a_cache_has_the_shards_and_all_but_the_scenes_of_its_source(
    source: Path, whole: Path, tiny_base_folder: Path
) -> None:
    there, here = ShardManifest.read(source), ShardManifest.read(whole)
    for name in ("split", "seed", "source", "rejected", "samples", "buckets"):
        assert getattr(here, name) == getattr(there, name)
    assert here.filters == there.filters | {"source_manifest_sha256": there.sha256()}
    assert [(r.name, r.samples) for r in here.shards] == [(r.name, r.samples) for r in there.shards]
    assert here.base == {
        "sha256": load_base(str(tiny_base_folder)).sha256(),
        "dtype": "fp32",
        "channels": 4,
        "factor": 4,
        "device": "cpu",
        "batch_size": 3,
    }
    theirs, ours = samples_of(source), samples_of(whole)
    assert list(ours) == list(theirs)
    for key, members in ours.items():
        assert members.keys() == {"latents.safetensors", "foreground.png", *KEPT}
        assert all(members[suffix] == theirs[key][suffix] for suffix in KEPT)
    assert verify(whole, workers=1).damages == []


def test_the_moments_are_the_first_stages_own(
    source: Path, whole: Path, tiny_base_folder: Path
) -> None:
    with torch.no_grad():
        posterior = load_base(str(tiny_base_folder)).vae.encode(scenes_of(source)).latent_dist
    mean, std = moments_of(whole)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std, posterior.std, atol=1e-5, rtol=1e-5)
    assert std.min() > 0


@pytest.mark.parametrize(("dtype", "relative"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_narrower_moments_are_rounded_once(
    dtype: str, relative: float, source: Path, whole: Path, settings: Settings, tmp_path: Path
) -> None:
    prepare_cache(str(source), tmp_path, replace(settings, dtype=dtype))
    for narrow, wide in zip(moments_of(tmp_path), moments_of(whole), strict=True):
        assert narrow.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        torch.testing.assert_close(narrow.float(), wide, atol=1e-7, rtol=relative)
    assert verify(tmp_path, workers=1).damages == []


def damaged(source: Path, folder: Path, change: Callable[[list], object]) -> Path:
    """A copy of the source whose first shard is changed."""
    write_shards(folder, samples=7)
    assert file_bytes(folder) == file_bytes(source)
    rewrite(folder, change)
    return folder


def test_a_samples_bytes_do_not_depend_on_its_neighbours(
    source: Path, whole: Path, settings: Settings, tmp_path: Path
) -> None:
    """Its first neighbour is lost, and it is encoded in a batch of another composition."""
    folder = damaged(source, tmp_path / "source", lambda samples: samples[0][1].pop("mask.png"))
    prepare_cache(str(folder), tmp_path / "out", settings)
    ours, expected = samples_of(tmp_path / "out"), samples_of(whole)
    assert list(ours) == list(expected)[1:]
    assert all(ours[key] == expected[key] for key in ours)


def test_a_tiny_first_stage_has_no_deviation(
    source: Path, settings: Settings, tmp_path: Path
) -> None:
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    widths = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    tiny = AutoencoderTiny(**blocks, **widths, latent_channels=4, scaling_factor=0.5)
    tiny.save_pretrained(tmp_path / "tiny")
    settings = replace(settings, first_stage=str(tmp_path / "tiny"))
    manifest = prepare_cache(str(source), tmp_path / "out", settings)
    base = load_base(settings.base, None, settings.first_stage)
    assert manifest.base["sha256"] == base.sha256()
    assert manifest.base["sha256"] != load_base(settings.base).sha256()
    mean, std = moments_of(tmp_path / "out")
    with torch.no_grad():
        expected = base.vae.encode(scenes_of(source)).latents
    torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    assert (std == 0).all()


@pytest.mark.parametrize("killed_in", ["the second shard", "the journal after it"])
def test_a_killed_run_is_continued_to_the_same_bytes(
    killed_in: str,
    source: Path,
    whole: Path,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "encode_scenes" if killed_in == "the second shard" else "_write_shard"
    calls = 0
    original = getattr(cache, name)

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if name == "encode_scenes" and calls == 2:
            raise KeyboardInterrupt
        result = original(*arguments)
        if name == "_write_shard" and calls == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(cache, name, killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_cache(str(source), tmp_path, settings)
    assert not (tmp_path / "manifest.json").exists()
    calls = 100
    before = (tmp_path / "train-000000.tar").stat().st_mtime_ns
    prepare_cache(str(source), tmp_path, settings)
    assert calls == 103  # the first shard is not made again
    assert (tmp_path / "train-000000.tar").stat().st_mtime_ns == before
    assert file_bytes(tmp_path) == file_bytes(whole)


def test_a_lost_shard_is_made_again(
    source: Path, whole: Path, settings: Settings, tmp_path: Path
) -> None:
    prepare_cache(str(source), tmp_path, settings)
    (tmp_path / "train-000002.tar").unlink()
    prepare_cache(str(source), tmp_path, settings)
    assert file_bytes(tmp_path) == file_bytes(whole)


def test_a_finished_folder_is_kept_and_another_one_is_not_touched(
    source: Path, whole: Path, settings: Settings, tmp_path: Path, capsys: Any
) -> None:
    before = file_bytes(whole)
    prepare_cache(str(source), whole, settings)
    assert "7 samples, made with the same arguments, are there already" in capsys.readouterr().out
    with pytest.raises(InputError, match="base dtype is fp32 there, fp16 asked for"):
        prepare_cache(str(source), whole, replace(settings, dtype="fp16"))
    assert file_bytes(whole) == before
    other = write_shards(tmp_path / "other", samples=3)
    prepare_cache(str(source), tmp_path / "out", settings)
    with pytest.raises(InputError, match=r"source_manifest_sha256 is .*--overwrite"):
        prepare_cache(str(other), tmp_path / "out", settings)
    prepare_cache(str(other), tmp_path / "out", settings, overwrite=True)
    assert list(samples_of(tmp_path / "out")) == list(samples_of(other))
    assert not list((tmp_path / "out").glob("*-000002*"))


def flip_a_byte(members: Members) -> None:
    data = members["scene.png"]
    members["scene.png"] = data[:400] + bytes([data[400] ^ 255]) + data[401:]


def test_damaged_samples_are_left_out_and_counted(
    source: Path, settings: Settings, tmp_path: Path, capsys: Any
) -> None:
    def change(samples: list[tuple[str, Members]]) -> None:
        samples[0][1].pop("elements.png")
        flip_a_byte(samples[1][1])

    folder = damaged(source, tmp_path / "source", change)
    manifest = prepare_cache(str(folder), tmp_path / "out", settings)
    theirs = ShardManifest.read(folder)
    assert manifest.rejected == theirs.rejected | {
        "damaged sample: elements.png is missing": 1,
        "damaged sample: scene.png cannot be decoded": 1,
    }
    assert [record.name for record in manifest.shards] == [r.name for r in theirs.shards[1:]]
    assert manifest.samples == 5
    assert verify(tmp_path / "out", workers=1).damages == []
    printed = capsys.readouterr().out
    assert "left out damaged sample: elements.png is missing (1), damaged sample: sc" in printed


def test_a_killed_run_keeps_count_of_the_damage(
    source: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(samples: list[tuple[str, Members]]) -> None:
        for _, members in samples:
            members.pop("mask.png")

    folder = damaged(source, tmp_path / "source", change)
    expected = prepare_cache(str(folder), tmp_path / "whole", settings).rejected
    assert expected["damaged sample: mask.png is missing"] == 2

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "encode_scenes", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_cache(str(folder), tmp_path / "out", settings)
    assert prepare_cache(str(folder), tmp_path / "out", settings).rejected == expected
    assert file_bytes(tmp_path / "out") == file_bytes(tmp_path / "whole")


def test_parts_of_a_source_and_parts_of_a_cache(settings: Settings, tmp_path: Path) -> None:
    """A source in two parts is cached in one folder and in three parts, to the same samples."""
    write_shards(tmp_path / "source", parts=2, samples=7)
    theirs = ShardManifest.read(tmp_path / "source")
    whole = prepare_cache(str(tmp_path / "source"), tmp_path / "whole", settings)
    assert len(whole.shards) == len(theirs.shards) == 4
    for index in range(3):
        part = Part(index, 3)
        prepare_cache(str(tmp_path / "source"), tmp_path / "parts", settings, part=part)
    joined = ShardManifest.read(tmp_path / "parts")
    assert [Path(record.name).name for record in joined.shards] == [r.name for r in whole.shards]
    assert joined.rejected == whole.rejected == theirs.rejected
    assert samples_of(tmp_path / "parts") == samples_of(tmp_path / "whole")
    assert list(samples_of(tmp_path / "whole")) == list(samples_of(tmp_path / "source"))


def test_what_cannot_be_cached_is_told(
    source: Path, whole: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(shards: Path, settings: Settings) -> str:
        with pytest.raises(InputError) as caught:
            prepare_cache(str(shards), tmp_path / "out", settings)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "manifest.json").exists()
        return str(caught.value)

    assert "is a cache; give the shards that it was made from" in refused(whole, settings)
    assert "no shards in" in refused(tmp_path, settings)
    assert "--batch-size 0 must be" in refused(source, replace(settings, batch_size=0))
    assert "has no model_index.json" in refused(source, replace(settings, base=str(source)))

    broken = write_shards(tmp_path / "broken", samples=2)
    rewrite(broken, lambda samples: [members.pop("meta.json") for _, members in samples])
    assert "no whole sample; damaged sample: meta.json is missing (2)" in refused(broken, settings)

    odd = write_shards(tmp_path / "odd", samples=2)
    write_manifest(odd, replace(ShardManifest.read(odd), buckets={"48x44": 2}))
    assert "has scenes of 48x44 pixels, but this base needs multiples of 8" in refused(
        odd, settings
    )

    moments = [torch.full((2, 4, 12, 12), 1e5)] * 2
    monkeypatch.setattr(cache, "encode_scenes", lambda *_: moments)
    line = refused(source, replace(settings, dtype="fp16"))
    assert (
        line
        == f"--dtype fp16 is too narrow for the latents of {drawn_sample(1).sample.key}; use fp32"
    )
    if not torch.cuda.is_available():
        assert "--device cuda: there is no GPU" in refused(source, replace(settings, device="cuda"))


def test_the_command_line(
    source: Path, whole: Path, tiny_base_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    command = ["prepare", "cache", str(source), "--base", str(tiny_base_folder), "--device", "cpu"]
    out = ["--out", str(tmp_path / "out")]
    assert main([*command, *out, "--dtype", "fp32", "--batch-size", "3"]) == 0
    assert file_bytes(tmp_path / "out") == file_bytes(whole)
    assert main([*command, *out]) == 2
    assert "base dtype is fp32 there, fp16 asked for" in capsys.readouterr().err
    parts = ["--shard-index", "1", "--num-shards", "2"]
    assert main([*command, "--out", str(tmp_path / "parts"), *parts]) == 0
    manifest = ShardManifest.read(tmp_path / "parts" / "part-00001-of-00002")
    assert (manifest.samples, manifest.base["dtype"]) == (3, "fp16")


def test_the_manifest_is_canonical(whole: Path) -> None:
    text = (whole / "manifest.json").read_text()
    assert ShardManifest.read(whole).to_json() == text
    assert str(whole.parent) not in text
    assert json.loads(text)["tools"].keys() > {"torch", "diffusers", "anyscene"}
