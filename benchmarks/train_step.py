"""Training steps of a FIM against a plain loop in the manner of diffusers' train_controlnet.

    python benchmarks/train_step.py                                    # small, on any machine
    python benchmarks/train_step.py --family sd15 --batch 32 --workers 8          # 512 px, one GPU
    python benchmarks/train_step.py --family sdxl --batch 4 --workers 8           # 1024 px

Weights are random, in the published shapes; scenes are the demo's at the base's size, encoded once
as `anyscene prepare cache` does, so that neither side pays for the first stage. Ours is what
`anyscene train` sets up: its module, loader, callbacks, clipping, moving average. The loop gets its
batches for nothing, from memory, and has neither average nor hint augmentation: what is left is a
ControlNet of five channels on the frozen UNet, text encoding, AdamW, clipping, bf16. Rounds
alternate on the same device, each row in a process of its own with a time limit; figures are
medians over rounds. Rows are printed, and written to `--out`, as they come.

MFU is the operations of UNet and FIM, as `anyscene train --dry-run` counts them, over the rate of
the device's data sheet and over a rate that is measured here with large matrix products. Beside the
peak of a GPU's memory is the one that `--dry-run` counts; a CPU's peak is not known.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from our_step import Setting, counted_gib, measure_ours
from own_process import ChildFailedError, in_own_process
from plain_loop import device_rates, flop_per_image, measure_loop
from random_base import describe, random_bases

from anyscene.files import replace_file
from data_prep.cache import Settings, prepare_cache

os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # to ask for a GPU is not to use it

FAMILIES = {"small": 64, "sd15": 512, "sdxl": 1024}
"""Pixels a side. `small` is the shipped demo base's shapes."""
CHANNELS_LAST = {"channels_last": True}
OURS: dict[str, dict[str, Any]] = {
    "ours, eager": {},
    "ours, channels_last": CHANNELS_LAST,
    "ours, checkpointing": {"gradient_checkpointing": True},
    "ours, compile": {"compile": True},
    "ours, channels_last, compile": CHANNELS_LAST | {"compile": True},
}
LOOPS = {
    "plain loop, eager": [],
    "plain loop, channels_last, compile": ["channels_last", "compile"],
}
LOOP_COUNTED_AS = {"ema_decay": 0.0}
ROWS = ("plain loop, eager", *list(OURS)[:3], "plain loop, channels_last, compile", *list(OURS)[3:])
SCENES = 64
PREPARATION_LIMIT = 120.0  # seconds
COUNTING_LIMIT = 900.0
"""Seconds: SDXL's steps are counted in minutes, operator by operator, on one core."""


def draw_scenes(folder: Path, size: int) -> Path:
    """Shards of demo scenes, drawn by the command: its workers import what their parent has."""
    command = ["prepare", "demo", "--out", folder, "--scenes", SCENES, "--val-scenes", 1]
    command += ["--size", size, "--workers", os.cpu_count() or 1]
    words = [str(word) for word in command]
    subprocess.run([sys.executable, "-m", "anyscene.cli", *words], check=True, capture_output=True)
    return folder / "shards/train"


def encode_scenes(family: str, shards: Path, folder: Path) -> tuple[Path, Path]:
    """A described base, and the shards cached with it."""
    base = folder / "base"
    if not base.is_dir():
        base = describe(family, base)
    with random_bases():
        prepare_cache(str(shards), folder / "cached", Settings(str(base), batch_size=4))
    return base, folder / "cached"


def one_row(name: str, setting: Setting) -> dict[str, Any]:
    """Measure one row in this process."""
    if name in LOOPS:
        return measure_loop(setting, LOOPS[name])
    return measure_ours(setting, OURS[name])


def counted_rows(names: Sequence[str], setting: Setting, size: int) -> dict[str, float]:
    """GiB that the step of each row is counted to take; layout and compilation change nothing."""
    found: dict[tuple[bool, bool], float] = {}
    counted = {}
    for name in names:
        train = LOOP_COUNTED_AS if name in LOOPS else OURS[name]
        kind = name in LOOPS, "gradient_checkpointing" in train
        if kind not in found:
            found[kind] = counted_gib(setting, size, train)
        counted[name] = found[kind]
    return counted


def table(
    rows: dict[str, list[dict[str, Any]]],
    counted: dict[str, float],
    flop: float,
    rates: dict[str, float],
) -> str:
    """Medians over rounds, as Markdown, with GiB counted by row; a row that failed says so."""
    measured = " | ".join(f"MFU, {name} rate" for name in rates)
    lines = [f"| | images/s | {measured} | counted GiB | peak GiB | to the eager loop |"]
    lines.append("| --- " * (5 + len(rates)) + "|")
    eager = median_speed(rows.get("plain loop, eager", []))
    for name, rounds in rows.items():
        speed = median_speed(rounds)
        counted_here = f"{counted[name]:.1f}"
        if speed is None:
            empty = "| " * len(rates)
            lines.append(f"| {name} | failed {empty}| {counted_here} | | |")
            continue
        shares = " | ".join(f"{speed * flop / rate:.1%}" for rate in rates.values())
        peaks = [r["peak_gib"] for r in rounds if r.get("peak_gib") is not None]
        peak = f"{max(peaks):.1f}" if peaks else "unknown"
        ratio = f"{speed / eager:.2f}" if eager else ""
        lines.append(f"| {name} | {speed:.3g} | {shares} | {counted_here} | {peak} | {ratio} |")
    return "\n".join(lines)


def median_speed(rounds: list[dict[str, Any]]) -> float | None:
    """Images a second of the rounds that did not fail."""
    speeds = [r["images_per_second"] for r in rounds if "images_per_second" in r]
    return statistics.median(speeds) if speeds else None


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps against a plain loop.")
    parser.add_argument("--family", choices=FAMILIES, default="small")
    parser.add_argument("--size", type=int, help="pixels a side; default: the base's own")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2, help="loader processes of ours")
    parser.add_argument("--warm-steps", type=int, default=5, help="before the timed ones")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed, of each row")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a row in all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="NAME")
    parser.add_argument(
        "--folder", type=Path, help="keep base and scenes there, by family and size, or take them"
    )
    parser.add_argument("--out", type=Path, help="JSON file")
    compare(parser.parse_args())


def compare(options: argparse.Namespace) -> None:
    """All rows, round by round."""
    size = options.size or FAMILIES[options.family]
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)) / f"{options.family}-{size}"
        place = options.family, draw_scenes(folder / "data", size), folder
        base, shards = in_own_process(encode_scenes, *place, limit=PREPARATION_LIMIT)
        rates = in_own_process(device_rates, limit=PREPARATION_LIMIT)
        setting = Setting(
            base,
            shards,
            options.batch,
            options.precision,
            options.workers,
            options.warm_steps,
            options.seconds,
        )
        heading = f"{options.family} at {size} px, batches of {options.batch}, {options.precision}"
        record: dict[str, Any] = {"what": heading, "torch": torch.__version__, "rates": rates}
        record["rows"] = {name: [] for name in options.rows}
        print(heading, flush=True)
        for number in range(options.rounds):
            for name in options.rows:
                measure(name, setting, options, record, number)
        flop = in_own_process(flop_per_image, base, size, limit=COUNTING_LIMIT)
        of_rows = options.rows, setting, size
        counted = in_own_process(counted_rows, *of_rows, limit=COUNTING_LIMIT)
    record["counted_gib"] = counted
    write(record, options.out)
    found = table(record["rows"], counted, flop, rates)
    print(f"\n{heading}: {flop / 1e12:.3g} TFLOP an image\n\n{found}")


def measure(
    name: str, setting: Setting, options: argparse.Namespace, record: dict[str, Any], number: int
) -> None:
    """Add a row's round to the record; print and write it."""
    started = time.perf_counter()
    try:
        figures = in_own_process(one_row, name, setting, limit=options.limit)
    except ChildFailedError as error:
        figures = {"failed": str(error)}
    figures["seconds_in_all"] = time.perf_counter() - started
    record["rows"][name].append(figures)
    shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}
    print(f"round {number + 1}, {name}: {shown}", flush=True)
    write(record, options.out)


def write(record: dict[str, Any], out: Path | None) -> None:
    """What is known so far, if a file is wanted."""
    if out:
        text = json.dumps(record, indent=1) + "\n"
        replace_file(out, lambda part: part.write_text(text))


if __name__ == "__main__":
    main()
