"""Reading of training samples against webdataset and litdata, on one core.

    python benchmarks/data.py [--photos FOLDER] [--peers FOLDER]

The same samples, at 512 pixels, as scenes and as cached moments, go through the loader of a
training and through the peers' loaders, in batches of 16, without loader processes. Processor time
is counted, rounds alternate, and each gives a ratio, so that other work on the machine weighs
little. The peers get a virtual environment of their own (about 1 GB), made once in the folder that
`--peers` names; with `--python` what is installed there is compared. Figures are in docs/data.md.

The scenes are made up, with the spectrum of photos; or they are a folder's photos, cropped.
"""

import argparse
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from data_samples import SIDE, write_all

from anyscene.config import DataConfig
from anyscene.data.datamodule import SceneDataModule
from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import ShardManifest

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "build" / "peers"
SAMPLES = 512
BATCH = 16
ROUNDS = 9


@dataclass(frozen=True)
class Comparison:
    """A pipeline of ours against one of a peer, and how much faster it shall be."""

    ours: str
    peer: str
    goal: float


COMPARISONS = (
    Comparison("scenes", "scenes webdataset floats", 3.7),
    Comparison("scenes", "scenes webdataset uint8", 1.25),
    Comparison("scenes", "scenes litdata", 1.0),
    Comparison("cached", "cached webdataset", 2.2),
    Comparison("cached", "cached litdata", 1.0),
    Comparison("latents", "latents webdataset", 8.0),
)


def main() -> None:
    """Print sizes, then a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of images to use as scenes")
    parser.add_argument("--peers", type=Path, default=PEERS, help="environment of the peers")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="a multiple of 16")
    parser.add_argument("--python", type=Path, help="interpreter that has the peers already")
    parser.add_argument("--only", choices=sorted({c.ours for c in COMPARISONS}))
    options = parser.parse_args()
    python = options.python or peers_python(options.peers)
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    os.environ |= {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder, options.photos, options.samples)
        with subprocess.Popen(
            [python, HERE / "peers" / "data_peers.py", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as peers:
            known = json.loads(answer(peers))
            print_facts(folder, known, options.samples)
            compare_all(folder, peers, known["pipelines"], options)


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, which is made if need be."""
    python, finished = folder / "bin" / "python", folder / "finished"
    wanted = (HERE / "peers.txt").read_text()
    if not finished.is_file() or finished.read_text() != wanted:
        print(f"installing the peers in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        install = "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"
        subprocess.run([python, *install, "-r", HERE / "peers.txt"], check=True)
        finished.write_text(wanted)
    return python


def our_batches(folder: Path) -> Iterator[object]:
    """A pass of the loader of a training."""
    data = DataConfig(train=str(folder), batch_size=BATCH, workers=0)
    samples = ShardManifest.read(folder).samples
    return islice(SceneDataModule(data).train_dataloader(), samples // BATCH)


def our_latents(folder: Path) -> Iterator[torch.Tensor]:
    """The moments alone of cached shards, B 2 c h w, by index and mmap.

    Into one array, which the system gives in huge pages.
    """
    path, places = latent_places(folder)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stored = np.frombuffer(data, np.uint8)
        moments = np.empty((len(places), 2, 4, SIDE // 8, SIDE // 8), np.float16)
        for at, into in zip(places, moments.view(np.uint8).reshape(len(moments), -1), strict=True):
            length = int.from_bytes(data[at : at + 8], "little")
            begin = at + 8 + length + offset_of_mean(data[at + 8 : at + 8 + length])
            into[:] = stored[begin : begin + into.size]
        del stored  # or else the file stays mapped
    return iter(torch.from_numpy(moments).split(BATCH))


@lru_cache
def latent_places(folder: Path) -> tuple[Path, list[int]]:
    """A shard and where its latents lie: a process reads an index once, as in training."""
    manifest = ShardManifest.read(folder)
    path = manifest.path(0)
    index = ShardIndex.read(index_path(path), manifest.shards[0])
    latents = [suffix == "latents.safetensors" for suffix in index.suffixes]
    return path, index.offsets[latents].tolist()


@lru_cache
def offset_of_mean(header: bytes) -> int:
    """Where the mean begins in a file of moments of half precision, the deviation behind it."""
    described = json.loads(header)
    (mean, middle), (std, _) = (described[name]["data_offsets"] for name in ("mean", "std"))
    assert described["mean"]["dtype"] == described["std"]["dtype"] == "F16"
    assert std == middle
    return mean


def seconds(batches: Callable[[], Iterator[object]]) -> float:
    """Processor time of a pass, of all threads: other work on the machine counts little."""
    start = time.process_time()
    for _ in batches():
        pass
    return time.process_time() - start


def answer(peers: subprocess.Popen[str]) -> str:
    """The next line of the peers."""
    assert peers.stdout is not None
    line = peers.stdout.readline()
    if not line:
        sys.exit("the peers ended; their error is above")
    return line


def peer_seconds(peers: subprocess.Popen[str], name: str) -> float:
    """Processor time of a pass of a peer's pipeline."""
    assert peers.stdin is not None
    peers.stdin.write(f"{name}\n")
    return float(answer(peers))


def compare_all(
    folder: Path, peers: subprocess.Popen[str], known: list[str], options: argparse.Namespace
) -> None:
    """Alternate rounds of all pipelines and print the ratios."""
    ours: dict[str, Callable[[], Iterator[object]]] = {
        "scenes": lambda: our_batches(folder / "scenes"),
        "cached": lambda: our_batches(folder / "cached"),
        "latents": lambda: our_latents(folder / "cached"),
    }
    comparisons = [
        comparison
        for comparison in COMPARISONS
        if comparison.peer in known and options.only in (None, comparison.ours)
    ]
    times: dict[str, list[float]] = {}
    for _ in range(options.rounds + 1):
        for name in dict.fromkeys(comparison.ours for comparison in comparisons):
            times.setdefault(name, []).append(seconds(ours[name]))
            for peer in (c.peer for c in comparisons if c.ours == name):
                times.setdefault(peer, []).append(peer_seconds(peers, peer))
    rates = {name: options.samples / min(values[1:]) for name, values in times.items()}  # 1: warm
    for comparison in comparisons:
        pairs = zip(times[comparison.peer][1:], times[comparison.ours][1:], strict=True)
        ratios = [theirs / mine for theirs, mine in pairs]
        print(
            f"{comparison.peer:<26} {statistics.median(ratios):5.2f} times its speed "
            f"(rounds {min(ratios):.2f} to {max(ratios):.2f}; goal {comparison.goal:g}); at best "
            f"{rates[comparison.ours]:.0f} against {rates[comparison.peer]:.0f} samples/s"
        )


def print_facts(folder: Path, peers: dict, samples: int) -> None:
    """The processor, versions, and the bytes of a sample in each form."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
    names = ("torch", "opencv-python-headless", "numpy")
    versions = {name: version(name) for name in names} | peers["versions"]
    print(f"one core of {cpu}; " + ", ".join(f"{n} {v}" for n, v in versions.items()))
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).glob("*.tar*"))
        for name in ("scenes", "cached", "npy", "latents")
    } | peers["bytes"]
    print("bytes a sample: " + ", ".join(f"{n} {b // samples}" for n, b in sizes.items()))


if __name__ == "__main__":
    main()
