"""The samples of `data.py`: of photos or made up, in every form that it compares."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.data.transforms import Sample
from data_prep.cache_sample import cached_members
from data_prep.images import encode_mask, encode_scene
from data_prep.shards import ShardFile

SIDE = 512  # pixels
FALL = 1.3  # of the amplitude with the frequency: gives the bytes of a photo

Members = dict[str, bytes]


def write_all(folder: Path, photos: Path | None, samples: int) -> None:
    """The samples in every form: scenes, cached, and what webdataset's documentation stores."""
    random = np.random.default_rng(0)
    scenes = (read_photos if photos else made_up_scenes)(photos or random)
    cached_base = {"sha256": "0" * 64, "dtype": "fp16", "channels": 4, "factor": 8}
    scene_files, cached_files = (new_shard(folder / name) for name in ("scenes", "cached"))
    npy_file, latents_file = (new_shard(folder / name) for name in ("npy", "latents"))
    for number, scene in zip(range(samples), scenes, strict=False):
        key = f"{number:06d}"
        members, mask = scene_members(key, scene, random)
        moments = torch.from_numpy(random.normal(size=(2, 4, SIDE // 8, SIDE // 8)))
        sample = Sample(None, key, scene[..., ::-1], mask, mask, {}, None)  # type: ignore[arg-type]
        cached = cached_members(sample, members, moments, "fp16")
        arrays = dict(zip(("mean.npy", "std.npy"), map(npy, moments.half()), strict=True))
        others = {name: data for name, data in cached.items() if name != "latents.safetensors"}
        scene_files.add(key, members)
        cached_files.add(key, cached)
        npy_file.add(key, others | arrays)
        latents_file.add(key, {"latents.npy": npy(moments.half())})
    for shard, base in ((scene_files, None), (cached_files, cached_base)):
        write_manifest(shard, base)
    npy_file.finish()
    latents_file.finish()


def new_shard(folder: Path) -> ShardFile:
    folder.mkdir()
    return ShardFile(folder / "train-000000.tar", f"{SIDE}x{SIDE}")


def write_manifest(shard: ShardFile, base: dict | None) -> None:
    """Finish a shard and write the manifest of a folder that has no other."""
    record = shard.finish()
    manifest = ShardManifest(
        split="train",
        seed=0,
        source="benchmark",
        filters={},
        rejected={},
        tools={},
        samples=record.samples,
        buckets={record.bucket: record.samples},
        shards=[record],
        base=base,
    )
    (shard.path.parent / MANIFEST_NAME).write_text(manifest.to_json())


def made_up_scenes(random: np.random.Generator) -> Iterator[np.ndarray]:
    """Images with the spectrum and the size in bytes of photos, H W 3, blue first."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    while True:
        spectrum = np.fft.rfft2(random.normal(size=(3, SIDE, SIDE)))
        noise = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / SIDE) ** FALL, s=(SIDE, SIDE))
        noise = np.moveaxis(noise / noise.std(), 0, -1)
        light = 128 + 40 * noise[..., :1] + 4 * noise
        yield np.ascontiguousarray(light.clip(0, 255).astype(np.uint8))


def read_photos(folder: Path) -> Iterator[np.ndarray]:
    """The photos of a folder again and again, cropped to squares, H W 3, blue first."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    while True:
        for path in paths:
            image = cv2.imread(str(path))
            side = min(image.shape[:2])
            yield cv2.resize(image[:side, :side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def scene_members(
    key: str, scene: np.ndarray, random: np.random.Generator
) -> tuple[Members, np.ndarray]:
    """The members of a sample as preparation writes them, and its mask: three soft ellipses."""
    elements = np.zeros((SIDE, SIDE), np.uint8)
    for number in (1, 2, 3):
        centre, axes = random.integers(100, SIDE - 100, 2), random.integers(30, 100, 2)
        cv2.ellipse(elements, centre.tolist(), axes.tolist(), 30 * number, 0, 360, number, -1)
    mask = cv2.GaussianBlur(np.where(elements > 0, 255, 0).astype(np.uint8), (0, 0), 1)
    meta = {
        "key": key,
        "captions": ["a caption of about the length of those in COCO"] * 5,
        "original_size": [640, 640],
        "crop_top_left": [0, 0],
        "elements": [{"category": "cat", "box_xywh": [1.5] * 4, "area_share": 0.1}] * 3,
        "truth": None,
    }
    members = {
        "scene.jpg": encode_scene(scene, lossless=False),
        "mask.png": encode_mask(mask),
        "elements.png": encode_mask(elements),
        "meta.json": json.dumps(meta).encode(),
    }
    return members, mask


def npy(values: torch.Tensor) -> bytes:
    """An array as webdataset stores it."""
    file = io.BytesIO()
    np.save(file, values.numpy())
    file.seek(0)
    return file.read()
