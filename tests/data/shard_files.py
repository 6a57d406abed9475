"""Small shard folders, written as `data_prep` writes them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from anyscene.data.index import checked_members, index_path, index_text
from anyscene.data.sample import ShardManifest, ShardRecord

Members = dict[str, bytes]


def png(image: np.ndarray) -> bytes:
    """The PNG of a grey or RGB image."""
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr)[1].tobytes()


def scene_of(number: int, size: tuple[int, int]) -> np.ndarray:
    """A smooth random scene, H W 3, another for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(coarse, size[::-1])


def members_of(number: int, key: str, size: tuple[int, int]) -> Members:
    """The four members of a whole sample."""
    mask = np.zeros(size, np.uint8)
    mask[4:10, 3:9] = 255
    meta = {
        "key": key,
        "source": "test",
        "image_id": number,
        "captions": [f"first of {number}", f"second of {number}", f"third of {number}"],
        "size": list(size),
        "original_size": [2 * size[0], 2 * size[1]],
        "crop_top_left": [number % 5, 1],
        "bucket": f"{size[0]}x{size[1]}",
        "licence": "none",
        "elements": [],
        "truth": {"number": number} if number % 2 else None,
    }
    return {
        "scene.png": png(scene_of(number, size)),
        "mask.png": png(mask),
        "elements.png": png(mask // 255),
        "meta.json": json.dumps(meta).encode(),
    }


def write_tar(path: Path, samples: dict[str, Members]) -> None:
    """A shard of samples by key."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_shards(
    folder: Path,
    counts: list[int],
    sizes: list[tuple[int, int]] | None = None,
    change: Callable[[str, Members], Members] = lambda _, members: members,
    *,
    prefix: str = "s",
    indexed: bool = False,
) -> ShardManifest:
    """A shard folder with `counts[i]` samples of `sizes[i]` in shard i; keys are s000000, ...

    `change` may damage the members of a sample before they are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    number = 0
    for shard, count in enumerate(counts):
        size = sizes[shard] if sizes else (16, 16)
        samples = {}
        for _ in range(count):
            key = f"{prefix}{number:06d}"
            samples[key] = change(key, members_of(number, key, size))
            number += 1
        path = folder / f"shard-{shard:03d}.tar"
        write_tar(path, samples)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        bucket = f"{size[0]}x{size[1]}"
        records.append(ShardRecord(path.name, count, len(data), digest, bucket))
        if indexed:
            write_index(path, records[-1])
    manifest = manifest_of(records)
    (folder / "manifest.json").write_text(manifest.to_json())
    return ShardManifest.read(folder)


def write_index(path: Path, record: ShardRecord) -> None:
    """The index of a whole shard."""
    index_path(path).write_text(index_text(record, checked_members(path)))


def manifest_of(records: list[ShardRecord]) -> ShardManifest:
    """A manifest of these shards."""
    buckets: dict[str, int] = {}
    for record in records:
        buckets[record.bucket] = buckets.get(record.bucket, 0) + record.samples
    return ShardManifest(
        split="train",
        seed=0,
        source="test",
        filters={},
        rejected={},
        tools={},
        samples=sum(record.samples for record in records),
        buckets=buckets,
        shards=records,
    )
