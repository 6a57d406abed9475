"""One run of a preparation: items -> samples -> shards -> manifest, for every kind of source.

Samples keep the order of their items, so that the files do not depend on the number of workers, or
on how often a run was killed and continued. Until the manifest is there, which comes last, the
folder holds the journal of what was done.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tqdm import tqdm

import anyscene
from anyscene.data.index import index_path
from anyscene.data.sample import MANIFEST_NAME, ShardManifest, ShardRecord
from anyscene.errors import DamageError, InputError
from data_prep.journal import RUNNING_NAME, Journal, journal_arguments
from data_prep.parallel import ordered_map
from data_prep.parts import WHOLE, Part
from data_prep.shards import ShardWriter, finished_record, write_whole, writing

Item = TypeVar("Item")

SHARD_FILE = re.compile(r".+-\d{6}\.tar(\.index)?(\.part)?")
NOTHING: Mapping[str, int] = MappingProxyType({})
TOOLS = ("numpy", "opencv-python-headless", "pycocotools")


def tool_versions(names: Sequence[str] = TOOLS) -> dict[str, str]:
    """The versions of the libraries that decide the bytes of the samples, and ours."""
    return {name: version(name) for name in names} | {"anyscene": anyscene.__version__}


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


class RejectedError(Exception):
    """An item gives no sample; the message is the reason."""


class OtherShardsError(InputError):
    """A folder holds shards that were made with other arguments."""


@dataclass(frozen=True)
class Arguments:
    """What decides the bytes of a preparation, as the manifest has it."""

    split: str
    source: str
    seed: int
    filters: dict[str, Any]  # and the checksums of the annotations
    tools: dict[str, str] = field(default_factory=tool_versions)
    base: dict[str, Any] | None = None  # of a cache

    def as_json(self) -> dict[str, Any]:
        """The arguments as a JSON file gives them back."""
        return json.loads(json.dumps(vars(self)))


def check_run(split: str, **counts: int | None) -> None:
    """Raises `InputError` for a split that cannot be in a file's name, or a count under 1."""
    if not re.fullmatch(r"[\w-]+", split):
        raise InputError(f"split={split!r} must be letters, digits, '-' and '_': it names files")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise InputError(f"{name}={count} must be at least 1")


def finished_manifest(out: Path, arguments: Arguments, part: Part = WHOLE) -> ShardManifest | None:
    """The manifest of a folder that was prepared with these arguments, None if there is work to do.

    Raises `InputError` when the folder holds shards made otherwise (`OtherShardsError`), or shards
    that are not ours.
    """
    part.check(out)
    folder = part.folder(out)
    shards = shard_files(folder)
    if (folder / MANIFEST_NAME).is_file():
        manifest = ShardManifest.read(folder)
        _refuse_others(folder, vars(manifest) | {"tools": arguments.tools}, arguments)
        if not _is_complete(manifest):
            return None
        (folder / RUNNING_NAME).unlink(missing_ok=True)  # killed with only this left to do
        return manifest
    if shards and not (folder / RUNNING_NAME).is_file():
        raise InputError(
            f"{folder} holds {shards[0].name} but no {MANIFEST_NAME}: "
            "choose another folder, or pass --overwrite"
        )
    if shards and (begun := journal_arguments(folder)):
        _refuse_others(folder, begun, arguments)
    return None


def prepare(
    out: Path,
    arguments: Arguments,
    items: Sequence[Item],
    make_outcome: Callable[[Item], Outcome],
    *,
    workers: int,
    shard_samples: int,
    part: Part = WHOLE,
    rejected: Mapping[str, int] = NOTHING,
) -> ShardManifest:
    """Write the part's shards and its manifest, replacing those that are there.

    A preparation with the same arguments that was killed is continued: its finished shards stay,
    and what was left out is not looked at again. `make_outcome` must be picklable and depend on its
    item alone; `rejected` is what was left out before there were items. Raises `InputError` when no
    item of a whole data set gives a sample, which replaces nothing, and `DamageError` when the run
    fails and can be continued.
    """
    part.check(out)
    folder, items = part.folder(out), part.of(items)
    with open_journal(folder, arguments) as journal:
        with ShardWriter(folder, arguments.split, shard_samples) as writer:
            places = _resume(writer, journal)
            _write(writer, journal, items, places, make_outcome, workers)
        if part.index == 0:  # so that the parts together have it once
            journal.rejected.update(rejected)
        if not writer.records:
            if part.count == 1:
                journal.path.unlink()
                reasons = ", ".join(f"{name} ({n})" for name, n in sorted(journal.rejected.items()))
                raise InputError(f"none of the {len(items)} images gives a sample: {reasons}")
            _remove_others(writer)
        return finish(journal, arguments, writer.records)


@contextmanager
def open_journal(folder: Path, arguments: Arguments) -> Iterator[Journal]:
    """The journal of an unfinished preparation with these arguments, or else a new one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{folder} is a file; name a folder for the shards") from None
    with Journal(folder) as journal:
        if journal.arguments != arguments.as_json():
            journal.begin(arguments.as_json())
        yield journal


def finish(journal: Journal, arguments: Arguments, shards: list[ShardRecord]) -> ShardManifest:
    """Write the manifest beside the finished shards and remove the journal."""
    folder = journal.path.parent
    buckets: Counter[str] = Counter()
    for record in shards:
        buckets[record.bucket] += record.samples
    manifest = ShardManifest(
        **vars(arguments),
        rejected=dict(journal.rejected),
        samples=buckets.total(),
        buckets=dict(buckets),
        shards=shards,
        root=folder,
    )
    with writing(folder / MANIFEST_NAME):
        write_whole(folder / MANIFEST_NAME, manifest.to_json())
    journal.path.unlink()
    return manifest


def shard_files(folder: Path) -> list[Path]:
    """The shards and indexes of a folder by name, finished or not, in a manifest or not."""
    return [path for path in sorted(folder.glob("*")) if SHARD_FILE.fullmatch(path.name)]


def _resume(writer: ShardWriter, journal: Journal) -> list[str | None]:
    """Where the samples of the items in the journal belong.

    A shard that has all of its samples is kept, every other file of a preparation removed: at
    once if there were samples, for they took its place, and else not before the first.
    """
    folder, plan = writer.folder, writer.plan
    places = [bucket and plan.place(bucket) for bucket in journal.buckets]
    for name, bucket in plan.buckets.items():
        record = finished_record(folder / name, bucket)
        if record and record.samples == plan.samples[name]:
            writer.finished[name] = record
    if any(places):
        _remove_others(writer)
    return places


def _remove_others(writer: ShardWriter) -> None:
    """Remove the files of a preparation that are not of the writer's finished shards."""
    folder = writer.folder
    kept = {folder / name for name in writer.finished}
    kept |= {index_path(path) for path in kept}
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # first: it shall name what is there
    for path in set(shard_files(folder)) - kept:
        path.unlink()


def _write(
    writer: ShardWriter,
    journal: Journal,
    items: Sequence[Item],
    places: Sequence[str | None],
    make_outcome: Callable[[Item], Outcome],
    workers: int,
) -> None:
    """Make the samples of shards that a kill left unfinished, then those of the other items."""
    again = [number for number, name in enumerate(places) if name and name not in writer.finished]
    todo = [*again, *range(len(places), len(items))]
    outcomes = ordered_map(make_outcome, (items[number] for number in todo), workers=workers)
    done = len(items) - len(todo)
    name = writer.folder.name
    bar = tqdm(outcomes, name, total=len(items), initial=done, unit="image", disable=None)
    for number, outcome in zip(todo, bar, strict=True):
        sample = outcome.sample
        place = places[number] if number < len(places) else None
        if place is None:
            if sample and not writer.plan.buckets:
                _remove_others(writer)  # what the first sample replaces
            journal.add(sample.bucket if sample else None, outcome.rejected)
            if sample:
                writer.write(sample.key, sample.bucket, sample.members)
        elif sample and sample.bucket == journal.buckets[number]:
            writer.write_to(place, sample.key, sample.members)
        else:
            raise DamageError(
                f"image {number + 1} of {len(items)} has changed since {writer.folder} was begun; "
                "remove the folder and run again"
            )


def _refuse_others(folder: Path, there: Mapping[str, Any], arguments: Arguments) -> None:
    """Raises `OtherShardsError` where a folder was made with other arguments."""
    old, new = _flat(there), _flat(arguments.as_json())
    differences = [
        f"{name} is {old.get(name)} there, {new.get(name)} asked for"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise OtherShardsError(
            f"{folder} holds shards made otherwise ({'; '.join(differences)}): "
            "choose another folder, or pass --overwrite"
        )


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    names = {name: arguments[name] for name in ("split", "source", "seed")}
    base = {f"base {name}": value for name, value in (arguments["base"] or {}).items()}
    return names | arguments["filters"] | arguments["tools"] | base


def _is_complete(manifest: ShardManifest) -> bool:
    files = [(manifest.root / record.name, record.bytes) for record in manifest.shards]
    return all(path.is_file() and path.stat().st_size == size for path, size in files)
