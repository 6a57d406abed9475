"""Small shard folders of drawn samples, whole or damaged, for tests of `verify` and `inspect`."""

import hashlib
import io
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors.numpy import save

from anyscene.data.index import Member, index_path, index_text
from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from data_prep.parts import Part
from data_prep.preparation import Arguments, Outcome, Sample, prepare
from data_prep.shards import read_samples
from data_prep.verify import verify

SIZE = 48
FACTOR, CHANNELS = 8, 4
ARGUMENTS = Arguments("train", "drawn", 0, {"size": SIZE})
BASE = {"encoder_sha256": "0" * 64, "dtype": "fp16", "channels": CHANNELS, "factor": FACTOR}
Members = dict[str, bytes]


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def drawn_sample(number: int, cached: bool = False) -> Outcome:
    """A scene of noise with two elements: a tile, and a dog in every other sample."""
    random = np.random.default_rng(number)
    scene = random.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    numbers = np.zeros((SIZE, SIZE), np.uint8)
    numbers[10:30, 8 : 10 + 2 * number] = 1
    if number % 2:
        numbers[32:40, 20:40] = 2
    key = f"drawn-{number:03d}"
    elements = [
        {
            "annotation_id": index,
            "category": "tile" if index == 1 else "dog",
            "box_xywh": list(cv2.boundingRect((numbers == index).astype(np.uint8))),
            "area_share": float((numbers == index).mean()),
            "mask_quality": min(1.0, 0.1 * number),
        }
        for index in range(1, int(numbers.max()) + 1)
    ]
    meta = {
        "key": key,
        "source": "drawn",
        "image_id": number,
        "captions": [f"tiles of number {number}", "a scene"][: 1 + number % 2],
        "size": [SIZE, SIZE],
        "original_size": [SIZE, SIZE],
        "crop_top_left": [0, 0],
        "bucket": f"{SIZE}x{SIZE}",
        "licence": "unknown",
        "elements": elements,
        "truth": None,
    }
    members = {
        "mask.png": png((numbers > 0).astype(np.uint8) * 255),
        "elements.png": png(numbers),
        "meta.json": json.dumps(meta).encode(),
    }
    members |= (
        {"foreground.png": png(scene), "latents.safetensors": latents()}
        if cached
        else {"scene.png": png(scene)}
    )
    return Outcome(Sample(key, f"{SIZE}x{SIZE}", members), Counter({"group: too small": 1}))


def elements_of(members: Members) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The element numbers of a sample, H W, and what its `meta.json` says of the elements."""
    data = np.frombuffer(members["elements.png"], np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), json.loads(members["meta.json"])["elements"]


def latents(
    shape: tuple[int, ...] = (CHANNELS, SIZE // FACTOR, SIZE // FACTOR),
    dtype: type = np.float16,
    mean: float = 0.5,
    std: float = 0.1,
) -> bytes:
    return save({"mean": np.full(shape, mean, dtype), "std": np.full(shape, std, dtype)})


def cached_sample(number: int) -> Outcome:
    return drawn_sample(number, cached=True)


def write_shards(folder: Path, *, cached: bool = False, parts: int = 1, samples: int = 6) -> Path:
    """`samples` samples, two a shard, in a folder or in parts of it."""
    make = cached_sample if cached else drawn_sample
    for index in range(parts):
        part = Part(index, parts)
        manifest = prepare(
            folder,
            ARGUMENTS,
            range(1, samples + 1),
            make,
            workers=1,
            shard_samples=2,
            part=part,
        )
        if cached:
            write_manifest(part.folder(folder), replace(manifest, base=BASE))
    return folder


def damages(folder: Path) -> list[str]:
    """What `verify` finds wrong, from the folder on."""
    return [line.removeprefix(f"{folder}/") for line in verify(folder.parent).damages]


def write_manifest(folder: Path, manifest: ShardManifest) -> None:
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


def rewrite(folder: Path, change: Callable[[list[tuple[str, Members]]], object]) -> None:
    """Change the samples of the first shard; its manifest and its index agree with its bytes."""
    manifest = ShardManifest.read(folder)
    record = manifest.shards[0]
    path = folder / record.name
    samples = list(read_samples(path))
    change(samples)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    record.bytes = path.stat().st_size
    record.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    write_manifest(folder, manifest)
    write_index(folder)


def write_index(folder: Path, change: Callable[[Member], Member] = lambda member: member) -> None:
    """Make the index of the first shard again, with each member as `change` has it."""
    record = ShardManifest.read(folder).shards[0]
    path = folder / record.name
    members = []
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            crc32 = zlib.crc32(file.read())
            members.append(change(Member(entry.name, entry.offset_data, entry.size, crc32)))
    index_path(path).write_text(index_text(record, members))
