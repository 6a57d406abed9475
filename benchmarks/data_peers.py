"""The peers of benchmarks/data.py, in an environment of their own; started by it.

Reads the name of a pipeline a line, goes through its data once, and answers with the seconds.
Every pipeline gives batches of 16 with all that a training sample holds.
"""

import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch
import torch
import webdataset
from litdata import StreamingDataLoader, StreamingDataset, optimize
from PIL import Image
from webdataset.tariterators import tarfile_samples

BATCH = 16
IMAGES = ("scene.jpg", "foreground.jpg", "mask.png", "elements.png")


def main() -> None:
    """Answer requests until the input ends."""
    folder = Path(sys.argv[1])
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # litdata prints
    for name in ("scenes", "cached"):
        write_litdata(folder / name, folder / f"litdata-{name}")
    pipelines: dict[str, Callable[[], Iterable[Any]]] = {
        "scenes webdataset floats": lambda: webdataset_floats(folder / "scenes"),
        "scenes webdataset uint8": lambda: webdataset_uint8(folder / "scenes"),
        "scenes litdata": lambda: litdata_batches(folder / "litdata-scenes"),
        "cached webdataset": lambda: webdataset_cached(folder / "npy"),
        "cached litdata": lambda: litdata_batches(folder / "litdata-cached"),
        "latents webdataset": lambda: webdataset_latents(folder / "latents"),
    }
    versions = {name: version(name) for name in ("webdataset", "litdata", "pillow")}
    sizes = {name: folder_bytes(folder / name) for name in ("litdata-scenes", "litdata-cached")}
    facts = {"versions": versions, "bytes": sizes, "pipelines": list(pipelines)}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        start = time.process_time()
        for _ in pipelines[line.strip()]():
            pass
        print(time.process_time() - start, file=answers, flush=True)


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def samples(folder: Path) -> webdataset.WebDataset:
    """webdataset's stream of the shards of a folder."""
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    return webdataset.WebDataset(shards, shardshuffle=False)


def webdataset_floats(folder: Path) -> Iterable[Any]:
    """As documented: `decode("pil")`, then to floats as torchvision's `ToTensor` does."""
    names = "scene.jpg", "mask.png", "elements.png", "meta.json"
    decoded = samples(folder).decode("pil").to_tuple(*names)
    return decoded.map_tuple(to_tensor, to_tensor, np.asarray, str).batched(BATCH)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """C H W in [0, 1]."""
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def webdataset_uint8(folder: Path) -> Iterable[Any]:
    """Decoded with Pillow, but left as uint8."""
    names = "scene.jpg", "mask.png", "elements.png", "meta.json"
    stored = samples(folder).to_tuple(*names)
    return stored.map_tuple(pil_pixels, pil_pixels, pil_pixels, json.loads).batched(BATCH)


def pil_pixels(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data))))


def webdataset_cached(folder: Path) -> Iterable[Any]:
    """As documented: `decode("pil")` for images, arrays as npy; images are left as uint8."""
    names = "mean.npy", "std.npy", "foreground.jpg", "mask.png", "elements.png", "meta.json"
    decoded = samples(folder).decode("pil").to_tuple(*names)
    same = torch.from_numpy
    return decoded.map_tuple(same, same, np.array, np.array, np.array, str).batched(BATCH)


def webdataset_latents(folder: Path) -> Iterable[Any]:
    """As documented: `.decode()` of npy."""
    return samples(folder).decode().to_tuple("latents.npy").batched(BATCH)


def write_litdata(shards: Path, out: Path) -> None:
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


def litdata_batches(folder: Path) -> Iterable[Any]:
    """Batches of `Decoded` samples."""
    return StreamingDataLoader(
        Decoded(str(folder)), batch_size=BATCH, num_workers=0, collate_fn=collate
    )


def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
    stacked: dict[str, Any] = {"meta": [sample["meta"] for sample in batch]}
    for name, value in batch[0].items():
        if isinstance(value, np.ndarray):
            stacked[name] = torch.from_numpy(np.stack([sample[name] for sample in batch]))
        elif isinstance(value, torch.Tensor):
            stacked[name] = torch.stack([sample[name] for sample in batch])
    return stacked


if __name__ == "__main__":
    main()
