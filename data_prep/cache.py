"""Shards -> shards of cached samples: the first stage's share of a training, paid once."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anyscene.config import DataConfig
from anyscene.data.cached import names_whole_base
from anyscene.data.reader import ShardReader
from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.data.sources import check_sizes, open_shards, read_manifest, shard_cache
from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.models.base import Base, vae_factor
from anyscene.models.loading import load_base
from data_prep.cache_sample import cached_members, encode_scenes
from data_prep.journal import journal_arguments
from data_prep.parts import WHOLE, Part
from data_prep.preparation import Arguments, finished_manifest, tool_versions
from data_prep.shard_by_shard import Batch, Members, Work, check_out, write_shards

TOOLS = ("torch", "diffusers", "safetensors", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Settings:
    """How scenes are encoded."""

    base: str  # this and the next two as `base.*` of a training
    revision: str | None = None
    first_stage: str | None = None
    dtype: str = "fp16"  # of the stored moments: fp16, bf16 or fp32
    device: str = "auto"  # auto, cpu or cuda
    batch_size: int = 8


def prepare_cache(
    shards: str, out: Path, settings: Settings, *, part: Part = WHOLE, overwrite: bool = False
) -> ShardManifest:
    """Write the cached form of `shards`, a folder or a URL, to the folder `out`.

    A folder that was finished with the same arguments is left as it is, and one that was begun is
    continued; `overwrite` replaces one that was made otherwise. Damaged samples are left out and
    counted in the manifest. Raises `InputError` for arguments and shards that cannot be used.
    """
    source = read_manifest(shards)
    if settings.batch_size < 1:
        raise InputError(f"--batch-size {settings.batch_size} must be at least 1")
    if source.base is not None:
        raise InputError(f"{shards!r} is a cache; give the shards that it was made from")
    check_out(source, out, part)
    device = choose_device(settings.device)
    torch.set_float32_matmul_precision("high")  # as in training
    base = load_base(settings.base, settings.revision, settings.first_stage)
    check_sizes(source.location, source, base.pixel_multiple())
    folders = [] if overwrite else [part.folder(out)]
    folders += set(out.glob("part-*")) - {part.folder(out)}  # that it will be joined with
    earlier = any(map(_is_of_an_earlier_version, folders))
    arguments = _arguments(source, base, settings, device, earlier)
    if not overwrite and (manifest := finished_manifest(out, arguments, part)):
        print(f"{out}: {manifest.samples} samples, made with the same arguments, are there already")
        return manifest
    vae: Any = base.vae
    vae.to(device)
    with closing(ShardReader(open_shards(shards, shard_cache(DataConfig())))) as reader:
        work = Work(
            source, reader, lambda batch, _: _cached(base, settings, batch), settings.batch_size
        )
        return write_shards(work, arguments, out, part)


def _cached(base: Base, settings: Settings, batch: Batch) -> list[Members]:
    """The members of cached samples."""
    scenes = [sample.image for sample, _ in batch]
    moments = encode_scenes(base.vae, scenes, settings.batch_size)
    return [
        cached_members(sample, members, own, settings.dtype)
        for (sample, members), own in zip(batch, moments, strict=True)
    ]


def _is_of_an_earlier_version(folder: Path) -> bool:
    """Whether a folder has a cache, finished or not, that names the whole base: it stays one."""
    if (folder / MANIFEST_NAME).is_file():
        return names_whole_base(ShardManifest.read(folder).base)
    return names_whole_base((journal_arguments(folder) or {}).get("base"))


def _arguments(
    source: ShardManifest, base: Base, settings: Settings, device: str, earlier: bool
) -> Arguments:
    first_stage = base.vae.config
    encoder = {"sha256": base.sha256()} if earlier else {"encoder_sha256": base.encoder_sha256()}
    return Arguments(
        source.split,
        source.source,
        source.seed,
        source.filters | {"source_manifest_sha256": source.sha256()},
        source.tools | tool_versions(TOOLS),
        encoder
        | {
            "dtype": settings.dtype,
            "channels": first_stage["latent_channels"],
            "factor": vae_factor(base.vae),
            "device": device,
            "batch_size": settings.batch_size,
        },
    )
