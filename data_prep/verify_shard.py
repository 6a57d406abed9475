"""Is a shard what its manifest and its index say? Its bytes as a whole, then sample by sample."""

import hashlib
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import ShardRecord
from anyscene.errors import DamageError
from data_prep.shards import file_sha256, read_samples
from data_prep.verify_sample import LatentForm, check_sample


@dataclass(frozen=True)
class ShardTask:
    """A shard to be checked."""

    path: Path
    record: ShardRecord
    latents: LatentForm | None  # of cached samples, which have no scenes
    indexed: bool = True


@dataclass
class ShardFindings:
    """What was found in a shard."""

    samples: int = 0  # that could be read, damaged or not
    categories: Counter[str] = field(default_factory=Counter)  # elements by category
    damages: list[str] = field(default_factory=list)  # one line each: shard, key, what
    keys: list[int] = field(default_factory=list)  # 64 bits of each key's checksum


def check_shard(task: ShardTask) -> ShardFindings:
    """Check a shard as far as it can be read; damage is listed, not raised."""
    cv2.setNumThreads(1)
    path, record = task.path, task.record
    found = ShardFindings()
    if not path.is_file():
        found.damages.append(f"{path}: missing")
        return found
    if path.stat().st_size != record.bytes:
        found.damages.append(f"{path}: {path.stat().st_size} bytes, {record.bytes} expected")
    elif file_sha256(path) != record.sha256:
        found.damages.append(f"{path}: its checksum is not the manifest's")
    checksums = _check_index(task, found.damages) if task.indexed else {}
    keys: set[str] = set()
    key = "its beginning"
    try:
        for key, members in read_samples(path):
            found.samples += 1
            found.keys.append(key_bits(key))
            try:
                if key in keys:
                    raise DamageError("the key is there twice")
                _check_bytes(key, members, checksums)
                found.categories.update(check_sample(key, members, record.bucket, task.latents))
            except DamageError as error:
                found.damages.append(f"{path}: {key}: {error}")
            keys.add(key)
    except (tarfile.TarError, OSError) as error:
        found.damages.append(f"{path}: cannot be read after {key}: {error}")
    if found.samples != record.samples:
        found.damages.append(
            f"{path}: {found.samples} samples up to {key}, {record.samples} expected"
        )
    return found


def key_bits(key: str) -> int:
    """64 bits of a key's checksum: the keys of a large data set fit into memory as these."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _check_index(task: ShardTask, damages: list[str]) -> dict[str, int]:
    """CRC-32 by member, from the shard's index, which is compared with the tar's own headers."""
    path = index_path(task.path)
    try:
        index = ShardIndex.read(path, task.record)
    except FileNotFoundError:
        damages.append(f"{path}: missing")
        return {}
    except DamageError as error:
        damages.append(str(error))
        return {}
    places = _places(index)
    said, found = dict(places), dict(_places(ShardIndex.scan(task.path)))
    wrong = [name for name in {**found, **said} if said.get(name) != found.get(name)]
    if wrong:
        damages.append(f"{path}: {len(wrong)} members are not where it says, such as {wrong[0]}")
    if index.checksums is None:
        damages.append(f"{path}: without checksums")
        return {}
    return {name: int(crc) for (name, _), crc in zip(places, index.checksums, strict=True)}


def _places(index: ShardIndex) -> list[tuple[str, tuple[int, int]]]:
    """Name, offset and size of each member, in the index's order."""
    return [
        (f"{key}.{suffix}", (offset, size))
        for sample, key in enumerate(index.keys)
        for suffix, offset, size in index.members(sample)
    ]


def _check_bytes(key: str, members: Mapping[str, bytes], checksums: Mapping[str, int]) -> None:
    """Raises `DamageError` for a member that is not what the index has."""
    for suffix, data in members.items():
        expected = checksums.get(f"{key}.{suffix}")
        if expected is not None and zlib.crc32(data) != expected:
            raise DamageError(f"{suffix} has another checksum than in the index")
