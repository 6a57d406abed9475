"""Is a folder of shards what its manifest says? Every checksum, every member of every sample."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import FORMAT, MANIFEST_NAME, PART_NAME, ShardManifest
from anyscene.errors import InputError
from data_prep.journal import RUNNING_NAME
from data_prep.parallel import ordered_map
from data_prep.preparation import SHARD_FILE, shard_files
from data_prep.rejected import kept_masks, left_out
from data_prep.verify_sample import LatentForm
from data_prep.verify_shard import ShardTask, check_shard, key_bits

TOP_CATEGORIES = 8

KeyBits = list[tuple[Path, NDArray[np.uint64]]]
"""Shards, and `key_bits` of the keys in each: 8 bytes a sample."""


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
    remarks: list[str] = field(default_factory=list)  # what is no damage, but worth a look


def verify(folder: Path, workers: int = 1) -> VerifyReport:
    """Check every shard folder at and below `folder` and print a report.

    Raises `InputError` when there is none.
    """
    report = VerifyReport()
    for path in sorted(folder.rglob(RUNNING_NAME)):
        report.damages.append(f"{path.parent}: its preparation was not finished; run it again")
    folders = [path.parent for path in sorted(folder.rglob(MANIFEST_NAME)) if _is_ours(path)]
    if not folders and not report.damages:
        raise InputError(f"no shards in or below {str(folder)!r}: no {MANIFEST_NAME} of ours there")
    tasks = [task for found in folders for task in _check_folder(found, report)]
    parts = [found for found in folders if PART_NAME.fullmatch(found.name) and found != folder]
    for whole in sorted({part.parent for part in parts}):
        _check_parts(whole, report)
    _check_shards(tasks, report, workers)
    _print(folder, report)
    return report


def _is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_bytes()).get("format") == FORMAT
    except (ValueError, AttributeError):
        return bool(shard_files(path.parent))  # damaged, beside shards: to be reported


def _check_folder(folder: Path, report: VerifyReport) -> list[ShardTask]:
    """Check the manifest and the names of the files; gives the shards that are to be there."""
    report.folders += 1
    try:
        manifest = ShardManifest.read(folder)
        tasks = [_task(manifest, number) for number in range(len(manifest.shards))]
    except InputError as error:
        report.damages.append(f"{folder / MANIFEST_NAME}: {error}")
        return []
    report.rejected.update(manifest.rejected)
    if not manifest.is_consistent():
        report.damages.append(f"{folder / MANIFEST_NAME}: its numbers of samples do not agree")
    _check_names(folder, [task.path for task in tasks], report)
    if not any(index_path(task.path).is_file() for task in tasks):
        tasks = [replace(task, indexed=False) for task in tasks]
        report.remarks.append(f"{folder}: no shard has an index; its members have no checksums")
    return tasks


def _task(manifest: ShardManifest, number: int) -> ShardTask:
    record = manifest.shards[number]
    height, width = (int(side) for side in record.bucket.split("x"))
    latents = None
    if manifest.base is not None and (shape := manifest.latent_shape((height, width))):
        latents = LatentForm(shape, manifest.base["dtype"])
    return ShardTask(manifest.path(number), record, latents)


def _check_names(folder: Path, shards: Sequence[Path], report: VerifyReport) -> None:
    """Every file that the manifest does not imply: damage if it looks like a shard or an index."""
    known = {MANIFEST_NAME, RUNNING_NAME, *(path.name for path in shards)}
    known |= {index_path(path).name for path in shards}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in known:
            found = report.damages if SHARD_FILE.fullmatch(path.name) else report.remarks
            found.append(f"{path}: not in {MANIFEST_NAME}")


def _check_parts(whole: Path, report: VerifyReport) -> None:
    """Are all parts of a data set there, and made with the same arguments?"""
    if (whole / MANIFEST_NAME).is_file():
        report.damages.append(f"{whole}: parts lie beside a {MANIFEST_NAME}, and are not read")
        return
    try:
        ShardManifest.read(whole)
    except InputError as error:
        report.damages.append(f"{whole}: {error}")


def _check_shards(tasks: Sequence[ShardTask], report: VerifyReport, workers: int) -> None:
    keys: defaultdict[Path, KeyBits] = defaultdict(list)
    total = sum(task.record.samples for task in tasks)
    with tqdm(total=total, desc="verify", unit="sample", disable=None) as progress:
        found = ordered_map(check_shard, tasks, workers=workers, chunk_items=1)
        for task, findings in zip(tasks, found, strict=True):
            report.shards += 1
            report.samples += findings.samples
            report.buckets[task.record.bucket] += findings.samples
            report.categories.update(findings.categories)
            report.damages += findings.damages
            folder = task.path.parent
            data_set = folder.parent if PART_NAME.fullmatch(folder.name) else folder
            keys[data_set].append((task.path, np.array(findings.keys, np.uint64)))
            progress.update(task.record.samples)
    for shards in keys.values():
        report.damages += _repeated_keys(shards)


def _repeated_keys(shards: KeyBits) -> Iterator[str]:
    """A line for each key that several shards of a data set have."""
    once = [np.unique(bits) for _, bits in shards]
    values, counts = np.unique(np.concatenate(once), return_counts=True)
    repeated = values[counts > 1]
    first: dict[str, Path] = {}
    for (path, _), bits in zip(shards, once, strict=True):
        if not np.isin(bits, repeated).any():
            continue
        for key in dict.fromkeys(ShardIndex.scan(path).keys):
            if key in first:
                yield f"{path}: {key}: the key is in {first[key].name} too"
            elif key_bits(key) in repeated:
                first[key] = path


def _print(folder: Path, report: VerifyReport) -> None:
    print(f"{folder}: {report.samples} samples in {report.shards} shards, {report.folders} folders")
    for title, counts in (
        ("scenes", report.buckets.most_common()),
        ("elements", report.categories.most_common(TOP_CATEGORIES)),
        ("left out", sorted(left_out(report.rejected).items())),
        ("masks kept", sorted(kept_masks(report.rejected).items())),
    ):
        for name, count in counts:
            print(f"  {title:<11}{count:>8}  {name}")
    for remark in report.remarks:
        print(f"NOTE {remark}")
    for damage in report.damages:
        print(f"DAMAGE {damage}")
    print(f"{len(report.damages)} damages" if report.damages else "all samples are whole")
