"""Is a folder of shards what its manifest says? Every checksum, every member of every sample."""

import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anyscene.data.sample import FORMAT, MANIFEST_NAME, Meta, ShardManifest, ShardRecord
from anyscene.errors import DamageError, InputError
from data_prep.preparation import RUNNING_NAME, shard_files
from data_prep.shards import file_sha256, read_samples

SCENES = ("scene.png", "scene.jpg")
TOP_CATEGORIES = 8


@dataclass
class VerifyReport:
    """What was found below a folder; it is whole when there are no `damages`."""

    folders: int = 0
    shards: int = 0
    samples: int = 0  # that could be read, damaged or not
    rejected: Counter[str] = field(default_factory=Counter)
    buckets: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)  # elements by category
    damages: list[str] = field(default_factory=list)  # one line each: shard, key, what


def verify(folder: Path) -> VerifyReport:
    """Check every shard folder at and below `folder` and print a report.

    Raises `InputError` when there is none.
    """
    report = VerifyReport()
    for path in sorted(folder.rglob(RUNNING_NAME)):
        report.damages.append(f"{path.parent}: its preparation was not finished; run it again")
    for path in sorted(folder.rglob(MANIFEST_NAME)):
        if _is_ours(path):
            _check_folder(path.parent, report)
    if not report.folders and not report.damages:
        raise InputError(f"no shards in or below {str(folder)!r}: no {MANIFEST_NAME} of ours there")
    _print(folder, report)
    return report


def check_sample(key: str, members: Mapping[str, bytes], bucket: str) -> list[str]:
    """The categories of a sample's elements. Raises `DamageError` unless it keeps the contract."""
    scenes = [name for name in SCENES if name in members]
    required = {"mask.png", "elements.png", "meta.json"}
    if missing := sorted(required - members.keys()):
        raise DamageError(f"{' and '.join(missing)} missing")
    if len(scenes) != 1:
        raise DamageError("two scenes" if scenes else "scene.png or scene.jpg missing")
    if extra := sorted(members.keys() - required - set(scenes)):
        raise DamageError(f"unknown member {extra[0]}")
    try:
        size, categories = _check_meta(json.loads(members["meta.json"]), key, bucket)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"meta.json is damaged: {error!r}") from None
    _decode(members, scenes[0], cv2.IMREAD_COLOR, (*size, 3))
    mask = _decode(members, "mask.png", cv2.IMREAD_UNCHANGED, size)
    numbers = _decode(members, "elements.png", cv2.IMREAD_UNCHANGED, size)
    if mask.max() < 128:  # as the loader demands
        raise DamageError("mask.png has no foreground")
    found = np.unique(numbers[numbers > 0]).tolist()
    if found != list(range(1, len(categories) + 1)):
        raise DamageError(f"elements.png has {found}, meta.json {len(categories)} elements")
    if not mask[numbers > 0].all():
        raise DamageError("elements.png has an element where mask.png is 0")
    return categories


def _check_meta(meta: Meta, key: str, bucket: str) -> tuple[tuple[int, int], list[str]]:
    """Height and width, and the elements' categories."""
    if missing := sorted(Meta.__required_keys__ - meta.keys()):
        raise DamageError(f"meta.json lacks {missing[0]!r}")
    if meta["key"] != key:
        raise DamageError(f"meta.json has the key {meta['key']!r}")
    height, width = meta["size"]
    if meta["bucket"] != bucket or f"{height}x{width}" != bucket:
        raise DamageError(f"size {height}x{width}, bucket {meta['bucket']} in a shard of {bucket}")
    if not meta["captions"] or not all(caption.strip() for caption in meta["captions"]):
        raise DamageError("no caption, or an empty one")
    return (height, width), [element["category"] for element in meta["elements"]]


def _is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_bytes()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return bool(shard_files(path.parent))  # damaged, beside shards: to be reported


def _check_folder(folder: Path, report: VerifyReport) -> None:
    report.folders += 1
    try:
        manifest = ShardManifest.read(folder)
    except (InputError, KeyError, TypeError, AttributeError) as error:
        report.damages.append(f"{folder / MANIFEST_NAME}: {error}")
        return
    report.rejected.update(manifest.rejected)
    named = {record.name for record in manifest.shards}
    for path in shard_files(folder):
        if path.name not in named:
            report.damages.append(f"{path}: not in {MANIFEST_NAME}")
    samples: Counter[str] = Counter()
    for record in manifest.shards:
        samples[record.bucket] += record.samples
    if samples != manifest.buckets or samples.total() != manifest.samples:
        report.damages.append(f"{folder / MANIFEST_NAME}: its numbers of samples do not agree")
    keys: set[str] = set()
    with tqdm(total=manifest.samples, desc=folder.name, unit="sample", disable=None) as progress:
        for record in manifest.shards:
            _check_shard(folder / record.name, record, keys, report, progress)


def _check_shard(
    path: Path, record: ShardRecord, keys: set[str], report: VerifyReport, progress: tqdm
) -> None:
    """Check the file as a whole, then its samples as far as they can be read."""
    report.shards += 1
    if not path.is_file():
        report.damages.append(f"{path}: missing")
        return
    if path.stat().st_size != record.bytes:
        report.damages.append(f"{path}: {path.stat().st_size} bytes, {record.bytes} expected")
    elif file_sha256(path) != record.sha256:
        report.damages.append(f"{path}: its checksum is not the manifest's")
    count, key = 0, "its beginning"
    try:
        for key, members in read_samples(path):
            count += 1
            progress.update()
            report.buckets[record.bucket] += 1
            try:
                if key in keys:
                    raise DamageError("the key is there twice")
                report.categories.update(check_sample(key, members, record.bucket))
            except DamageError as error:
                report.damages.append(f"{path}: {key}: {error}")
            keys.add(key)
    except (tarfile.TarError, OSError) as error:
        report.damages.append(f"{path}: cannot be read after {key}: {error}")
    report.samples += count
    if count != record.samples:
        report.damages.append(f"{path}: {count} samples up to {key}, {record.samples} expected")


def _decode(
    members: Mapping[str, bytes], name: str, flags: int, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(members[name], np.uint8), flags)
    except cv2.error as error:
        raise DamageError(f"{name} cannot be decoded: {error.err}") from None
    if image is None:
        raise DamageError(f"{name} cannot be decoded")
    if image.shape != shape or image.dtype != np.uint8:
        raise DamageError(f"{name} is {image.dtype} {image.shape}, expected uint8 {shape}")
    return image.astype(np.uint8, copy=False)


def _print(folder: Path, report: VerifyReport) -> None:
    print(f"{folder}: {report.samples} samples in {report.shards} shards, {report.folders} folders")
    for title, counts in (
        ("scenes", report.buckets.most_common()),
        ("elements", report.categories.most_common(TOP_CATEGORIES)),
        ("left out", sorted(report.rejected.items())),
    ):
        for name, count in counts:
            print(f"  {title:<9}{count:>8}  {name}")
    for damage in report.damages:
        print(f"DAMAGE {damage}")
    print(f"{len(report.damages)} damages" if report.damages else "all samples are whole")
