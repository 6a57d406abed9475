"""`prepare cache`: what it keeps of the source, what it encodes, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load
from shard_folders import rewrite, write_manifest, write_shards
from small_cache import damaged_source, samples_of

from anyscene.data.reader import ShardReader
from anyscene.data.sample import ShardManifest
from anyscene.data.stream import Slot
from anyscene.errors import InputError
from anyscene.models.loading import load_base
from data_prep import cache
from data_prep.cache import Settings, prepare_cache
from data_prep.parts import Part
from data_prep.verify import verify

KEPT = ("mask.png", "elements.png", "meta.json")


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
    cache_source: Path, whole_cache: Path, tiny_base_folder: Path
) -> None:
    there, here = ShardManifest.read(cache_source), ShardManifest.read(whole_cache)
    for name in ("split", "seed", "source", "rejected", "samples", "buckets"):
        assert getattr(here, name) == getattr(there, name)
    assert here.filters == there.filters | {"source_manifest_sha256": there.sha256()}
    assert [(r.name, r.samples) for r in here.shards] == [(r.name, r.samples) for r in there.shards]
    assert here.base == {
        "encoder_sha256": load_base(str(tiny_base_folder)).encoder_sha256(),
        "dtype": "fp32",
        "channels": 4,
        "factor": 4,
        "device": "cpu",
        "batch_size": 3,
    }
    theirs, ours = samples_of(cache_source), samples_of(whole_cache)
    assert list(ours) == list(theirs)
    for key, members in ours.items():
        assert members.keys() == {"latents.safetensors", "foreground.png", *KEPT}
        assert all(members[suffix] == theirs[key][suffix] for suffix in KEPT)
    assert verify(whole_cache, workers=1).damages == []


def test_the_moments_are_the_first_stages_own(
    cache_source: Path, whole_cache: Path, tiny_base_folder: Path
) -> None:
    with torch.no_grad():
        posterior = load_base(str(tiny_base_folder)).vae.encode(scenes_of(cache_source)).latent_dist
    mean, std = moments_of(whole_cache)
    torch.testing.assert_close(mean, posterior.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(std, posterior.std, atol=1e-5, rtol=1e-5)
    assert std.min() > 0


@pytest.mark.parametrize(("dtype", "relative"), [("fp16", 2**-11), ("bf16", 2**-8)])
def test_narrower_moments_are_rounded_once(
    dtype: str,
    relative: float,
    cache_source: Path,
    whole_cache: Path,
    cache_settings: Settings,
    tmp_path: Path,
) -> None:
    prepare_cache(str(cache_source), tmp_path, replace(cache_settings, dtype=dtype))
    for narrow, wide in zip(moments_of(tmp_path), moments_of(whole_cache), strict=True):
        assert narrow.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        torch.testing.assert_close(narrow.float(), wide, atol=1e-7, rtol=relative)
    assert verify(tmp_path, workers=1).damages == []


def test_a_samples_bytes_do_not_depend_on_its_neighbours(
    cache_source: Path, whole_cache: Path, cache_settings: Settings, tmp_path: Path
) -> None:
    """Its first neighbour is lost, and it is encoded in a batch of another composition."""
    folder = damaged_source(
        cache_source, tmp_path / "source", lambda samples: samples[0][1].pop("mask.png")
    )
    prepare_cache(str(folder), tmp_path / "out", cache_settings)
    ours, expected = samples_of(tmp_path / "out"), samples_of(whole_cache)
    assert list(ours) == list(expected)[1:]
    assert all(ours[key] == expected[key] for key in ours)


def test_a_tiny_first_stage_has_no_deviation(
    cache_source: Path, cache_settings: Settings, tmp_path: Path
) -> None:
    blocks = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    widths = {"encoder_block_out_channels": (8,) * 3, "decoder_block_out_channels": (8,) * 3}
    tiny = AutoencoderTiny(**blocks, **widths, latent_channels=4, scaling_factor=0.5)
    tiny.save_pretrained(tmp_path / "tiny")
    settings = replace(cache_settings, first_stage=str(tmp_path / "tiny"))
    manifest = prepare_cache(str(cache_source), tmp_path / "out", settings)
    base = load_base(settings.base, None, settings.first_stage)
    assert manifest.base["encoder_sha256"] == base.encoder_sha256()
    assert manifest.base["encoder_sha256"] != load_base(settings.base).encoder_sha256()
    mean, std = moments_of(tmp_path / "out")
    with torch.no_grad():
        expected = base.vae.encode(scenes_of(cache_source)).latents
    torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
    assert (std == 0).all()


def test_parts_of_a_source_and_parts_of_a_cache(cache_settings: Settings, tmp_path: Path) -> None:
    """A source in two parts is cached in one folder and in three parts, to the same samples."""
    write_shards(tmp_path / "source", parts=2, samples=7)
    theirs = ShardManifest.read(tmp_path / "source")
    whole = prepare_cache(str(tmp_path / "source"), tmp_path / "whole", cache_settings)
    assert len(whole.shards) == len(theirs.shards) == 4
    for index in range(3):
        part = Part(index, 3)
        prepare_cache(str(tmp_path / "source"), tmp_path / "parts", cache_settings, part=part)
    joined = ShardManifest.read(tmp_path / "parts")
    assert [Path(record.name).name for record in joined.shards] == [r.name for r in whole.shards]
    assert joined.rejected == whole.rejected == theirs.rejected
    assert samples_of(tmp_path / "parts") == samples_of(tmp_path / "whole")
    assert list(samples_of(tmp_path / "whole")) == list(samples_of(tmp_path / "source"))


def test_what_cannot_be_cached_is_told(
    cache_source: Path,
    whole_cache: Path,
    cache_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(shards: Path, **changed: Any) -> str:
        with pytest.raises(InputError) as caught:
            prepare_cache(str(shards), tmp_path / "out", replace(cache_settings, **changed))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "manifest.json").exists()
        return str(caught.value)

    assert "is a cache; give the shards that it was made from" in refused(whole_cache)
    assert "no shards in" in refused(tmp_path)
    assert "--batch-size 0 must be" in refused(cache_source, batch_size=0)
    assert "has no model_index.json" in refused(cache_source, base=str(cache_source))

    broken = write_shards(tmp_path / "broken", samples=2)
    rewrite(broken, lambda samples: [members.pop("meta.json") for _, members in samples])
    assert "no whole sample; damaged sample: meta.json is missing (2)" in refused(broken)

    odd = write_shards(tmp_path / "odd", samples=2)
    write_manifest(odd, replace(ShardManifest.read(odd), buckets={"48x44": 2}))
    assert "has scenes of 48x44 pixels, but this base needs multiples of 8" in refused(odd)

    moments = [torch.full((2, 4, 12, 12), 1e5)] * 2
    monkeypatch.setattr(cache, "encode_scenes", lambda *_: moments)
    line = refused(cache_source, dtype="fp16")
    assert "--dtype fp16 is too narrow for the latents of drawn-001; use fp32" in line
    if not torch.cuda.is_available():
        assert "--device cuda: there is no GPU" in refused(cache_source, device="cuda")


def test_the_manifest_is_canonical(whole_cache: Path) -> None:
    text = (whole_cache / "manifest.json").read_text()
    assert ShardManifest.read(whole_cache).to_json() == text
    assert str(whole_cache.parent) not in text
    assert json.loads(text)["tools"].keys() > {"torch", "diffusers", "anyscene"}
