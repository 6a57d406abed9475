"""COCO images, instances and captions -> composited-foreground samples in tar shards.

What was left out is counted in the manifest's `rejected`. A reason that starts with `image:` counts
an image that gave no sample, so that these and the samples add up to the images read; `group:`
counts groups of touching instances that were left out of a foreground, `element:` instances of a
chosen group that cannot be seen, both whether or not the image gave a sample.

Masks lie in the stored orientation of an image file, which is COCO's: pycocotools and its readers
ignore the orientation in EXIF, and so does this. An image whose stored size is not its annotation's
is rejected.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.coco_annotations import TRUTH_NAME, ImageRecord, read_records
from data_prep.coco_sample import Settings, make_sample
from data_prep.preparation import Arguments, finished_manifest, prepare
from data_prep.shards import file_sha256


def prepare_coco(
    images: Path,
    instances: Path,
    captions: Path | None,
    out: Path,
    *,
    split: str,
    source: str = "coco",
    seed: int = 0,
    size: int = 512,
    soften: float = 1.0,
    truth: Path | None = None,
    workers: int = 1,
    min_area_share: float = 0.02,
    max_area_share: float = 0.8,
    limit: int | None = None,
    shard_samples: int = 512,
    overwrite: bool = False,
) -> ShardManifest:
    """Write the shards of a COCO data set to the folder `out` and return their manifest.

    `size` is the side of the square scenes in pixels, `soften` the sigma of the mask's soft edge in
    pixels of the scene, the area shares are of the scene's area, `limit` takes the first images by
    id, and `truth` is a folder with truth.jsonl. Without captions the categories make one.

    A folder that was finished with the same arguments is left as it is, whether or not images have
    changed since; `overwrite` makes it again, and replaces shards that were made otherwise. Raises
    `InputError` for arguments and files that cannot be used, and when no image gives a sample.
    """
    settings = Settings(images, truth, source, seed, size, soften, min_area_share, max_area_share)
    _check(settings, split)
    _check_counts(workers=workers, limit=limit, shard_samples=shard_samples, size=size)
    filters = {
        "size": size,
        "soften": soften,
        "min_area_share": min_area_share,
        "max_area_share": max_area_share,
        "limit": limit,
        "shard_samples": shard_samples,
        "instances_sha256": _checksum(instances),
        "captions_sha256": _checksum(captions),
        "truth_sha256": _checksum(truth / TRUTH_NAME if truth else None),
    }
    arguments = Arguments(split, source, seed, filters)
    if not overwrite and (manifest := finished_manifest(out, arguments)):
        print(f"{out}: {manifest.samples} samples, made with the same arguments, are there already")
        return manifest
    records = read_records(instances, captions, truth, limit)
    _check_images(images, records)
    return prepare(
        out,
        arguments,
        records,
        functools.partial(make_sample, settings),
        workers=workers,
        shard_samples=shard_samples,
    )


def _check(settings: Settings, split: str) -> None:
    if not settings.images.is_dir():
        raise InputError(f"no such folder of images: {settings.images}")
    for name, value in (("split", split), ("source", settings.source)):
        if not re.fullmatch(r"[\w-]+", value):
            raise InputError(
                f"{name}={value!r} must be letters, digits, '-' and '_': it names files"
            )
    if settings.seed < 0:
        raise InputError(f"seed={settings.seed} must not be negative")
    if settings.soften < 0:
        raise InputError(
            f"soften={settings.soften} must not be negative; 0 leaves edges as they are"
        )
    if not 0 <= settings.min_area_share < settings.max_area_share <= 1:
        raise InputError(
            f"min_area_share={settings.min_area_share} and max_area_share="
            f"{settings.max_area_share} must be rising and within 0 and 1"
        )


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name}={count} must be at least 1")


def _check_images(folder: Path, records: Sequence[ImageRecord]) -> None:
    if not any((folder / record.file_name).is_file() for record in records):
        example = f", such as {records[0].file_name}" if records else ""
        raise InputError(f"{folder} holds none of the {len(records)} annotated images{example}")


def _checksum(path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    return file_sha256(path)
