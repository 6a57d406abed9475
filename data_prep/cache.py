"""Shards -> shards of cached samples: the first stage's share of a training, paid once.

Shard i becomes shard i. What a shard holds is a function of its samples and the settings, so a
finished one is never made again, and a run that was killed goes on to the same bytes.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from anyscene.config import DataConfig
from anyscene.data.index import index_path
from anyscene.data.reader import ShardReader
from anyscene.data.sample import MANIFEST_NAME, ShardManifest, ShardRecord
from anyscene.data.sources import open_shards, read_manifest, shard_cache
from anyscene.data.stream import Slot
from anyscene.data.transforms import Sample
from anyscene.devices import choose_device
from anyscene.errors import DamageError, InputError
from anyscene.models.base import Base, vae_factor
from anyscene.models.loading import load_base
from data_prep.cache_sample import Members, cached_members, encode_scenes
from data_prep.parts import WHOLE, Part
from data_prep.preparation import (
    Arguments,
    finish,
    finished_manifest,
    open_journal,
    shard_files,
    tool_versions,
)
from data_prep.shards import ShardFile, finished_record, partial_path

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


@dataclass(frozen=True)
class Work:
    """What the shards of a cache are made of."""

    source: ShardManifest
    reader: ShardReader
    base: Base
    settings: Settings

    def name(self, number: int) -> str:
        """The file name of shard `number`, that of the source's shard."""
        return f"{self.source.split}-{number:06d}.tar"


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
    device = choose_device(settings.device)
    torch.set_float32_matmul_precision("high")  # as in training
    base = load_base(settings.base, settings.revision, settings.first_stage)
    _check_buckets(source, base)
    arguments = _arguments(source, base, settings, device)
    if not overwrite and (manifest := finished_manifest(out, arguments, part)):
        print(f"{out}: {manifest.samples} samples, made with the same arguments, are there already")
        return manifest
    vae: Any = base.vae
    vae.to(device)
    with closing(ShardReader(open_shards(shards, shard_cache(DataConfig())))) as reader:
        return _write_all(Work(source, reader, base, settings), arguments, out, part)


def _check_buckets(source: ShardManifest, base: Base) -> None:
    multiple = base.pixel_multiple()
    for bucket in source.buckets:
        if any(int(side) % multiple for side in bucket.split("x")):
            raise InputError(
                f"{source.location!r} has scenes of {bucket} pixels, but this base needs multiples "
                f"of {multiple}; prepare the shards in other sizes"
            )


def _arguments(source: ShardManifest, base: Base, settings: Settings, device: str) -> Arguments:
    first_stage = base.vae.config
    return Arguments(
        source.split,
        source.source,
        source.seed,
        source.filters | {"source_manifest_sha256": source.sha256()},
        source.tools | tool_versions(TOOLS),
        {
            "sha256": base.sha256(),
            "dtype": settings.dtype,
            "channels": first_stage["latent_channels"],
            "factor": vae_factor(base.vae),
            "device": device,
            "batch_size": settings.batch_size,
        },
    )


def _write_all(work: Work, arguments: Arguments, out: Path, part: Part) -> ShardManifest:
    """Write the part's shards that are not finished, and the manifest."""
    folder, shards = part.folder(out), work.source.shards
    numbers = _numbers(len(shards), part)
    with open_journal(folder, arguments) as journal:
        earlier = dict(zip(numbers, journal.buckets, strict=False))
        empty = {number for number, bucket in earlier.items() if bucket is None}
        records = {
            number: record
            for number, bucket in earlier.items()
            if bucket and (record := finished_record(folder / work.name(number), bucket))
        }
        _remove_others(folder, list(records.values()))
        todo = [number for number in numbers if number not in records.keys() | empty]
        samples = sum(shards[number].samples for number in todo)
        with tqdm(total=samples, desc=folder.name, unit="sample", disable=None) as progress:
            for number in todo:
                record, rejected = _write_shard(work, folder, number, progress)
                if record:
                    records[number] = record
                if number not in earlier:
                    journal.add(record and record.bucket, rejected)
        if not records and part.count == 1:
            journal.path.unlink()
            raise InputError(
                f"{work.source.location!r} has no whole sample; {_told(journal.rejected)}"
            )
        if journal.rejected:
            print(f"{folder}: left out {_told(journal.rejected)}")
        if part.index == 0:  # so that the parts together have them once
            journal.rejected.update(work.source.rejected)
        return finish(journal, arguments, [records[number] for number in sorted(records)])


def _numbers(shards: int, part: Part) -> range:
    """The shards of a part, neighbours, so that the parts together have the source's order."""
    first, end = (shards * index // part.count for index in (part.index, part.index + 1))
    return range(first, end)


def _remove_others(folder: Path, finished: list[ShardRecord]) -> None:
    """Remove what is left of another preparation, or of an unfinished shard."""
    paths = [folder / record.name for record in finished]
    kept = {*paths, *(index_path(path) for path in paths)}
    for path in {folder / MANIFEST_NAME, *shard_files(folder)} - kept:
        path.unlink(missing_ok=True)


def _write_shard(
    work: Work, folder: Path, number: int, progress: tqdm
) -> tuple[ShardRecord | None, Counter[str]]:
    """The record of a cached shard, None where no sample is whole, and what was left out."""
    rejected: Counter[str] = Counter()
    path = folder / work.name(number)
    shard = ShardFile(path, work.source.shards[number].bucket)
    try:
        for batch in _whole_samples(work, number, rejected):
            scenes = [sample.image for sample, _ in batch]
            moments = encode_scenes(work.base.vae, scenes, work.settings.batch_size)
            for (sample, members), own in zip(batch, moments, strict=True):
                shard.add(sample.key, cached_members(sample, members, own, work.settings.dtype))
            progress.update(len(batch))
        if shard.samples:
            return shard.finish(), rejected
    finally:
        shard.abandon()
    partial_path(path).unlink()
    return None, rejected


def _whole_samples(
    work: Work, number: int, rejected: Counter[str]
) -> Iterator[list[tuple[Sample, Members]]]:
    """The whole samples of a shard with their stored members, in batches."""
    batch = []
    for sample in range(work.source.shards[number].samples):
        try:
            batch.append(work.reader.read(Slot(counter=0, bucket=0, shard=number, sample=sample)))
        except DamageError as error:
            reason = str(error).partition(": ")[2]  # what is before it names shard and key
            rejected[f"damaged sample: {reason}"] += 1
        if len(batch) == work.settings.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _told(rejected: Counter[str]) -> str:
    """What was left out of the source, in one line."""
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(rejected.items()))
    return f"{reasons}; see `anyscene prepare verify`"
