"""One run of a preparation: items -> samples -> shards -> manifest, for every kind of source.

While it runs, and after it was killed, `preparing.json` lies in the folder;
the manifest comes last.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

import anyscene
from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.errors import InputError
from data_prep.parallel import ordered_map
from data_prep.shards import ShardWriter, write_whole

Item = TypeVar("Item")

RUNNING_NAME = "preparing.json"
SHARD_FILE = re.compile(r".+-\d{6}\.tar(\.part)?")
TOOLS = ("numpy", "opencv-python-headless", "pycocotools")


@dataclass(frozen=True)
class Sample:
    """What a shard holds of one scene."""

    key: str
    bucket: str  # "HxW"
    members: dict[str, bytes]  # by extension


@dataclass(frozen=True)
class Outcome:
    """What came of one item: a sample or none, and how often something was left out, by reason."""

    sample: Sample | None
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Arguments:
    """What decides the bytes of a preparation, as the manifest has it."""

    split: str
    source: str
    seed: int
    filters: dict[str, Any]  # and the checksums of the annotations


def finished_manifest(folder: Path, arguments: Arguments) -> ShardManifest | None:
    """The manifest of a folder that was prepared with these arguments, None if there is work to do.

    Raises `InputError` when the folder holds shards made with others, or shards that are not ours.
    """
    if (folder / MANIFEST_NAME).is_file():
        manifest = ShardManifest.read(folder)
        if differences := _differences(manifest, arguments):
            raise InputError(
                f"{folder} holds shards made otherwise ({differences}): "
                "choose another folder, or pass --overwrite"
            )
        return manifest if _is_complete(manifest) else None
    shards = shard_files(folder)
    if shards and not (folder / RUNNING_NAME).is_file():
        raise InputError(
            f"{folder} holds {shards[0].name} but no {MANIFEST_NAME}: "
            "choose another folder, or pass --overwrite"
        )
    return None


def prepare(
    folder: Path,
    arguments: Arguments,
    items: Sequence[Item],
    make_outcome: Callable[[Item], Outcome],
    *,
    workers: int,
    shard_samples: int,
) -> ShardManifest:
    """Write shards and manifest to `folder`, replacing those that are there.

    `make_outcome` must be picklable and depend on its item alone. Raises `InputError` when no item
    gives a sample.
    """
    _begin(folder, arguments)
    rejected: Counter[str] = Counter()
    buckets: Counter[str] = Counter()
    with ShardWriter(folder, arguments.split, shard_samples) as writer:
        outcomes = ordered_map(make_outcome, items, workers=workers)
        for outcome in tqdm(outcomes, folder.name, total=len(items), unit="image", disable=None):
            rejected.update(outcome.rejected)
            if outcome.sample:
                buckets[outcome.sample.bucket] += 1
                writer.write(outcome.sample.key, outcome.sample.bucket, outcome.sample.members)
    if not buckets:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(rejected.items()))
        raise InputError(f"none of the {len(items)} images gives a sample: {reasons}")
    manifest = ShardManifest(
        split=arguments.split,
        source=arguments.source,
        seed=arguments.seed,
        filters=arguments.filters,
        rejected=dict(rejected),
        tools={name: version(name) for name in TOOLS} | {"anyscene": anyscene.__version__},
        samples=buckets.total(),
        buckets=dict(buckets),
        shards=writer.records,
        root=folder,
    )
    write_whole(folder / MANIFEST_NAME, manifest.to_json())
    (folder / RUNNING_NAME).unlink()
    return manifest


def _begin(folder: Path, arguments: Arguments) -> None:
    """Mark the folder as being prepared and remove what it holds of another preparation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} is a file; name a folder for the shards") from None
    write_whole(folder / RUNNING_NAME, json.dumps(vars(arguments), indent=1, sort_keys=True) + "\n")
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for path in shard_files(folder):
        path.unlink()


def shard_files(folder: Path) -> list[Path]:
    """The shards of a folder by name, finished or not, whether or not a manifest names them."""
    return [path for path in sorted(folder.glob("*")) if SHARD_FILE.fullmatch(path.name)]


def _differences(manifest: ShardManifest, arguments: Arguments) -> str:
    """`seed is 0 there, 1 asked for` for each argument that the manifest has otherwise."""
    names = ("split", "source", "seed")
    there = {name: getattr(manifest, name) for name in names} | manifest.filters
    asked = {name: getattr(arguments, name) for name in names} | arguments.filters
    return "; ".join(
        f"{name} is {there.get(name)} there, {asked.get(name)} asked for"
        for name in sorted(there.keys() | asked.keys())
        if there.get(name) != asked.get(name)
    )


def _is_complete(manifest: ShardManifest) -> bool:
    files = [(manifest.root / record.name, record.bytes) for record in manifest.shards]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)
