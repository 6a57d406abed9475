"""COCO images, instances and captions -> composited-foreground samples in tar shards.

What was left out is counted in the manifest's `rejected`. A reason that starts with `image:` counts
an image that gave no sample, so that these and the samples add up to the images read; `group:`
counts groups of touching instances that were left out of a foreground, `element:` instances of a
chosen group that cannot be seen, both whether or not the image gave a sample. `annotation:` and
`caption:` count those of images that are not listed.

Masks lie in the stored orientation of an image file, which is COCO's: pycocotools and its readers
ignore the orientation in EXIF, and so does this. An image whose stored size is not its annotation's
is rejected.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.coco_annotations import TRUTH_NAME, ImageRecord, read_records
from data_prep.coco_sample import Settings, make_sample
from data_prep.images import decode_image
from data_prep.parts import WHOLE, Part
from data_prep.preparation import Arguments, Outcome, check_run, finished_manifest, prepare
from data_prep.shards import file_sha256


@dataclass(frozen=True)
class CocoFiles:
    """A data set in COCO format."""

    images: Path  # folder
    instances: Path
    captions: Path | None = None  # None: the categories make a caption


def prepare_coco(
    files: CocoFiles,
    out: Path,
    settings: Settings,
    *,
    split: str,
    workers: int = 1,
    limit: int | None = None,
    shard_samples: int = 512,
    overwrite: bool = False,
    part: Part = WHOLE,
) -> ShardManifest:
    """Write the shards of a COCO data set to the folder `out` and return their manifest.

    `limit` takes the first images by id; `part` makes one part of the data set in a folder below
    `out`. A folder that was finished with the same arguments is left as it is, whether or not
    images have changed since; `overwrite` makes it again, and replaces shards that were made
    otherwise. One that was begun with the same arguments is continued in any case.

    Raises `InputError` for arguments and files that cannot be used, and when no image gives a
    sample; `DamageError` as `prepare` does.
    """
    settings.check()
    if not files.images.is_dir():
        raise InputError(f"no such folder of images: {files.images}")
    check_run(split, workers=workers, limit=limit, shard_samples=shard_samples)
    filters = settings.filters() | {
        "limit": limit,
        "shard_samples": shard_samples,
        "instances_sha256": _checksum(files.instances),
        "captions_sha256": _checksum(files.captions),
        "truth_sha256": _checksum(settings.truth / TRUTH_NAME if settings.truth else None),
    }
    arguments = Arguments(split, settings.source, settings.seed, filters)
    if not overwrite and (manifest := finished_manifest(out, arguments, part)):
        samples = f"{manifest.samples} samples"
        print(f"{manifest.root}: {samples}, made with the same arguments, are there already")
        return manifest
    rejected: Counter[str] = Counter()
    records = read_records(files.instances, files.captions, settings.truth, limit, rejected)
    _check_images(files.images, records)
    return prepare(
        out,
        arguments,
        records,
        functools.partial(make_coco_sample, files.images, settings),
        workers=workers,
        shard_samples=shard_samples,
        part=part,
        rejected=rejected,
    )


def make_coco_sample(images: Path, settings: Settings, record: ImageRecord) -> Outcome:
    """The sample of one image in a folder, or the reason why there is none."""
    path = images / record.file_name
    if not path.is_file():
        return Outcome(None, Counter({"image: missing file": 1}))
    return make_sample(settings, record, functools.partial(decode_image, path))


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
