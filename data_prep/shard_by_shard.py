"""Shards -> shards of the same samples in another form.

Shard i becomes shard i. What a shard holds is a function of its samples and the arguments, so a
finished one is never made again, and a run that was killed goes on to the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from anyscene.data.index import index_path
from anyscene.data.reader import ShardReader
from anyscene.data.sample import MANIFEST_NAME, ShardManifest, ShardRecord
from anyscene.data.stream import Slot
from anyscene.data.transforms import Sample
from anyscene.errors import DamageError, InputError
from data_prep.parts import Part
from data_prep.preparation import Arguments, finish, open_journal, shard_files
from data_prep.rejected import DAMAGED
from data_prep.shards import ShardFile, finished_record, partial_path
from data_prep.verify_sample import check_sample

Members = dict[str, bytes]  # by suffix
Batch = list[tuple[Sample, Members]]  # decoded, and as they are stored


@dataclass(frozen=True)
class Work:
    """What new shards are made of.

    `convert` gives the new members of each sample of a batch, which are neighbours in a shard. It
    may count in its second argument, by reason, what it has left out. What is damaged is for the
    reader to tell, which looks at what a training needs, or with `checked` for `check_sample`.
    """

    source: ShardManifest
    reader: ShardReader
    convert: Callable[[Batch, Counter[str]], list[Members]]
    batch_size: int
    checked: bool = False

    def name(self, number: int) -> str:
        """The file name of shard `number`, that of the source's shard."""
        return f"{self.source.split}-{number:06d}.tar"

    def read(self, number: int, sample: int) -> tuple[Sample, Members]:
        """A sample of shard `number`. Raises `DamageError`, which names shard and key."""
        found, members = self.reader.read(Slot(counter=0, bucket=0, shard=number, sample=sample))
        if self.checked:
            record = self.source.shards[number]
            try:
                check_sample(found.key, members, record.bucket, None)
            except DamageError as error:
                raise DamageError(f"{record.name}, {found.key}: {error}") from None
        return found, members


def check_out(source: ShardManifest, out: Path, part: Part) -> None:
    """Raises `InputError` for an impossible part, or where its folder is one of the source's."""
    part.check(out)
    root = Path(source.location.removeprefix("file://"))
    folders = {root, *((root / record.name).parent for record in source.shards)}
    if part.folder(out).resolve() in {folder.resolve() for folder in folders}:
        raise InputError(f"--out {out} has the shards that are read; choose another folder")


def write_shards(work: Work, arguments: Arguments, out: Path, part: Part) -> ShardManifest:
    """Write the part's shards that are not finished, and the manifest.

    Damaged samples are left out and counted in the manifest. Raises `InputError` where the source
    has no whole sample, before anything in `out` is touched.
    """
    folder, shards = part.folder(out), work.source.shards
    numbers = _numbers(len(shards), part)
    whole = _shard_with_a_whole_sample(work, numbers)
    with open_journal(folder, arguments) as journal:
        earlier = dict(zip(numbers, journal.buckets, strict=False))
        if earlier.get(whole, "") is None:  # mended since: what was left out is looked at again
            journal.begin(arguments.as_json())
            earlier = {}
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
        if damage := _told(journal.rejected):
            print(f"{folder}: left out {damage}")
        if part.index == 0:  # so that the parts together have them once
            journal.rejected.update(work.source.rejected)
        return finish(journal, arguments, [records[number] for number in sorted(records)])


def _shard_with_a_whole_sample(work: Work, numbers: range) -> int:
    """The first such shard among `numbers`, those of a part, or else among the others.

    Raises `InputError` where there is none.
    """
    rejected: Counter[str] = Counter()
    others = [number for number in range(len(work.source.shards)) if number not in numbers]
    for number in (*numbers, *others):
        if next(_whole_samples(work, number, rejected), None):
            return number
    damage = _told(rejected)
    reason = f"; {damage}" if damage else ""
    raise InputError(f"{work.source.location!r} has no whole sample{reason}")


def _numbers(shards: int, part: Part) -> range:
    """The shards of a part, neighbours, so that the parts together have the source's order."""
    first, end = (shards * index // part.count for index in (part.index, part.index + 1))
    return range(first, end)


def _remove_others(folder: Path, finished: list[ShardRecord]) -> None:
    """Remove what is left of another preparation, or of an unfinished shard."""
    paths = [folder / record.name for record in finished]
    kept = {*paths, *(index_path(path) for path in paths)}
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # first: it shall name what is there
    for path in set(shard_files(folder)) - kept:
        path.unlink(missing_ok=True)


def _write_shard(
    work: Work, folder: Path, number: int, progress: tqdm
) -> tuple[ShardRecord | None, Counter[str]]:
    """The record of a new shard, None where no sample is whole, and what was left out."""
    rejected: Counter[str] = Counter()
    path = folder / work.name(number)
    shard = ShardFile(path, work.source.shards[number].bucket)
    try:
        for batch in _whole_samples(work, number, rejected):
            converted = work.convert(batch, rejected)
            for (sample, _), members in zip(batch, converted, strict=True):
                shard.add(sample.key, members)
            progress.update(len(batch))
        if shard.samples:
            return shard.finish(), rejected
    finally:
        shard.abandon()
    partial_path(path).unlink()
    return None, rejected


def _whole_samples(work: Work, number: int, rejected: Counter[str]) -> Iterator[Batch]:
    """The whole samples of a shard, in batches."""
    batch = []
    for sample in range(work.source.shards[number].samples):
        try:
            batch.append(work.read(number, sample))
        except DamageError as error:
            reason = str(error).partition(": ")[2]  # what is before it names shard and key
            rejected[f"{DAMAGED}: {reason}"] += 1
        if len(batch) == work.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _told(rejected: Counter[str]) -> str:
    """Which samples were left out as damaged, in one line; nothing without any."""
    reasons = sorted(reason for reason in rejected if reason.startswith(DAMAGED))
    counted = ", ".join(f"{reason} ({rejected[reason]})" for reason in reasons)
    return f"{counted}; see `anyscene prepare verify`" if counted else ""
