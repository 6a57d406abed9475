"""litdata's side of benchmarks/data.py, in the environment of data_peers.py."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize
from webdataset.tariterators import tarfile_samples

IMAGES = ("scene.jpg", "foreground.jpg", "mask.png", "elements.png")


def write(shards: Path, out: Path) -> None:
    """The same samples in litdata's format, their members as bytes."""
    optimize(
        fn=read_shard,
        inputs=sorted(str(path) for path in shards.glob("*.tar")),
        output_dir=str(out),
        chunk_bytes="64MB",
        num_workers=1,
    )


def read_shard(path: str) -> Iterable[dict[str, bytes]]:
    for sample in tarfile_samples([{"url": path}]):
        yield {name: data for name, data in sample.items() if not name.startswith("__")}


class Decoded(StreamingDataset):
    """litdata's samples, decoded as anyscene does."""

    def __getitem__(self, index: Any) -> dict[str, Any]:
        stored = super().__getitem__(index)
        sample: dict[str, Any] = {"meta": json.loads(bytes(stored["meta.json"]))}
        for name in IMAGES:
            if name in stored:
                flags = cv2.IMREAD_COLOR_RGB if name.endswith("jpg") else cv2.IMREAD_UNCHANGED
                sample[name] = cv2.imdecode(np.frombuffer(stored[name], np.uint8), flags)
        if "latents.safetensors" in stored:
            sample |= safetensors.torch.load(bytes(stored["latents.safetensors"]))
        return sample


def batches(folder: Path, size: int) -> Iterable[Any]:
    """Batches of `Decoded` samples."""
    return StreamingDataLoader(
        Decoded(str(folder)), batch_size=size, num_workers=0, collate_fn=collate
    )


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    stacked: dict[str, Any] = {"meta": [sample["meta"] for sample in batch]}
    for name, value in batch[0].items():
        if isinstance(value, np.ndarray):
            stacked[name] = torch.from_numpy(np.stack([sample[name] for sample in batch]))
        elif isinstance(value, torch.Tensor):
            stacked[name] = torch.stack([sample[name] for sample in batch])
    return stacked
