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
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset
from PIL import Image

BATCH = 16


def main() -> None:
    """Answer requests until the input ends."""
    folder = Path(sys.argv[1])
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # litdata prints
    pipelines: dict[str, Callable[[], Iterable[Any]]] = {
        "scenes webdataset floats": lambda: webdataset_floats(folder / "scenes"),
        "scenes webdataset uint8": lambda: webdataset_uint8(folder / "scenes"),
        "cached webdataset": lambda: webdataset_cached(folder / "npy"),
        "latents webdataset": lambda: webdataset_latents(folder / "latents"),
    }
    versions = {name: version(name) for name in ("webdataset", "pillow")}
    sizes = {}
    if find_spec("litdata"):
        import data_litdata

        versions["litdata"] = version("litdata")
        for name in ("scenes", "cached"):
            stored = folder / f"litdata-{name}"
            data_litdata.write(folder / name, stored)
            pipelines[f"{name} litdata"] = partial(data_litdata.batches, stored, BATCH)
            sizes[stored.name] = folder_bytes(stored)
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


if __name__ == "__main__":
    main()
