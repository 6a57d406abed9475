"""The Frechet distance against torchmetrics, and the memory of scoring 30,000 images, on one core.

    python benchmarks/metrics.py [--width 2048] [--images 30000] [--kid-images 5000] [--rounds 3]

Speed: `compute()` of both classes from the same features, with more images than features, and
with fewer (where torchmetrics' covariance is singular). Rounds alternate, and each gives a ratio,
so that a busy machine slows both. Memory: batches of random features go through FID, KID and a
metric of single images; the process' memory is sampled then and while the distances are made.
"""

import argparse
import os
import statistics
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from anyscene.metrics.clip_score import ClipScore
from anyscene.metrics.fid import FrechetDistance
from anyscene.metrics.kernel_distance import KID, mmd
from anyscene.metrics.kid import KernelDistance

GOAL = 2.5
MEMORY_GOAL = 2.0  # GB


class Given(nn.Module):
    """The images are their own features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, images: Tensor) -> Tensor:
        return images


def features(count: int, width: int, seed: int) -> Tensor:
    """Features with variances over four powers of ten, as networks give."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator) * torch.logspace(0, -2, width) + 0.4


def compare(name: str, count: int, width: int, rounds: int) -> float:
    """Print the seconds of both, their ratio and how far apart they are; returns the ratio."""
    generated, real = features(count, width, 0), features(count, width, 1)
    ours, theirs = FrechetDistance(width), FrechetInceptionDistance(Given(width))
    ours.update(generated, real)
    theirs.update(generated, real=False)
    theirs.update(real, real=True)
    times: list[tuple[float, float]] = []
    values = 0.0, 0.0
    for _ in range(rounds):
        first, second = seconds(ours.compute), seconds(theirs.compute)
        ours._computed = theirs._computed = None
        times.append((first[0], second[0]))
        values = first[1], second[1]
    ratio = statistics.median(their / our for our, their in times)
    our, their = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name}: {count} images, {width} features: ours {our:.2f} s, torchmetrics {their:.2f} s, "
        f"ratio {ratio:.2f}; distances {values[0]:.9f} and {values[1]:.9f}",
        flush=True,
    )
    return ratio


def seconds(compute: Callable[[], Tensor]) -> tuple[float, float]:
    """How long a call takes, and what it gives."""
    start = time.perf_counter()
    value = float(compute())
    return time.perf_counter() - start, value


@contextmanager
def sampled_memory(peak: list[float]):
    """Keep the largest memory of the process, in bytes, in `peak` while the context is open."""
    process, ended = psutil.Process(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def memory(images: int, width: int, kid_images: int, batch: int = 50) -> float:
    """Print and return the gigabytes that scoring takes beside the networks.

    KID's time grows with the square of the images, its memory with their number: all are kept and
    put together, as for a distance of all, but the distance is of the first ones.
    """
    reference = features(images, width, 1)
    clip = ClipScore()
    fid, kid = FrechetDistance(width), KernelDistance(width, KID, reference)
    before = psutil.Process().memory_info().rss
    peak = [float(before)]
    with sampled_memory(peak):
        for number in range(0, images, batch):
            rows = features(min(batch, images - number), width, 2 + number)
            fid.update(rows, rows + 0.01)
            kid.update(rows)
            clip.update(rows, rows)
        start = time.perf_counter()
        fid.compute()
        print(f"FID of {images} images: {time.perf_counter() - start:.1f} s", flush=True)
        start = time.perf_counter()
        rows = kid.rows()[:kid_images]
        mmd(rows, reference[:kid_images], KID)
        print(f"KID of {len(rows)} images: {time.perf_counter() - start:.1f} s", flush=True)
        clip.compute()
    used = (peak[0] - before + reference.nbytes) / 1e9
    print(f"memory: {used:.2f} GB, {reference.nbytes / 1e9:.2f} of them the real images' features")
    return used


def main() -> None:
    """Print a line a comparison; exit code 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048, help="features of an image")
    parser.add_argument("--images", type=int, default=30_000, help="for the memory")
    parser.add_argument("--kid-images", type=int, default=5000, help="for the time of KID")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Metric `Frechet")
    width = options.width
    ratio = compare("many images", 2 * width + width // 2, width, options.rounds)
    compare("few images", width // 2, width, options.rounds)
    used = memory(options.images, width, options.kid_images)
    if width < 2048:
        print("a small run: no goal applies")
        return
    print(f"goals: ratio {ratio:.2f} of {GOAL}, memory {used:.2f} of {MEMORY_GOAL} GB")
    raise SystemExit(ratio < GOAL or used > MEMORY_GOAL)


if __name__ == "__main__":
    main()
