"""A folder of images with masks -> composited-foreground samples in tar shards, made as COCO's are.

An image's foreground is told by the first of these that is there:

    NAME_mask.png, NAME.mask.png beside it, or masks/NAME.png for images/NAME.jpg
        binary: each part that touches no other is an element; or ids: each value is one
    NAME.json   SA-1B's form: run-length masks, which may nest, without classes
    its own alpha channel, where the scene is kept under alpha 0

A cut-out, which has nothing under alpha 0, has no scene to be learned: it is an element for
`generate` and benchmarks. The soft edge of a mask or an alpha is cut at one half, and made soft
again as COCO's masks are. What was left out is counted in the manifest's `rejected`, as for COCO.
"""

import functools
from collections import Counter
from dataclasses import replace
from pathlib import Path

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.captions import assign_captions, read_captions
from data_prep.coco_sample import Settings
from data_prep.folder_listing import Entry, list_folder
from data_prep.folder_sample import Reading, make_folder_sample
from data_prep.parts import WHOLE, Part
from data_prep.preparation import Arguments, check_run, finished_manifest, prepare
from data_prep.shards import file_sha256


def prepare_folder(
    reading: Reading,
    out: Path,
    settings: Settings,
    *,
    split: str,
    captions: Path | None = None,
    workers: int = 1,
    limit: int | None = None,
    shard_samples: int = 512,
    overwrite: bool = False,
    part: Part = WHOLE,
) -> ShardManifest:
    """Write the shards of the folder `reading.source` to `out` and return their manifest.

    `captions` is a file for all images, in place of NAME.txt beside each; `limit` takes the first
    images by path. The other arguments, what becomes of a folder that was finished or killed, and
    the errors are those of `prepare_coco`.
    """
    settings.check()
    check_run(split, workers=workers, limit=limit, shard_samples=shard_samples)
    entries, checksum = list_folder(reading.source)
    rejected: Counter[str] = Counter()
    if captions:
        entries = _with_captions(entries, captions, reading, rejected)
    filters = (
        settings.filters()
        | reading.filters()
        | {
            "limit": limit,
            "shard_samples": shard_samples,
            "files_sha256": checksum,
            "captions_sha256": file_sha256(captions) if captions else None,
        }
    )
    arguments = Arguments(split, settings.source, settings.seed, filters)
    if not overwrite and (manifest := finished_manifest(out, arguments, part)):
        samples = f"{manifest.samples} samples"
        print(f"{manifest.root}: {samples}, made with the same arguments, are there already")
        return manifest
    return prepare(
        out,
        arguments,
        entries[:limit],
        functools.partial(make_folder_sample, settings, reading),
        workers=workers,
        shard_samples=shard_samples,
        part=part,
        rejected=rejected,
    )


def _with_captions(
    entries: list[Entry], path: Path, reading: Reading, rejected: Counter[str]
) -> list[Entry]:
    """The images with their captions from a file. Raises `InputError` where it names none."""
    captions = read_captions(path)
    found = assign_captions([entry.image for entry in entries], captions, rejected)
    if not any(found):
        example = next(iter(captions), None)
        raise InputError(
            f"{path} has captions for {len(captions)} names, such as {example!r}, and none is an "
            f"image of {reading.source}, such as {entries[0].image!r}"
        )
    return [replace(entry, captions=own) for entry, own in zip(entries, found, strict=True)]
