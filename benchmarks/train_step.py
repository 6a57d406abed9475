"""Training steps of a FIM against a plain loop in the manner of diffusers' train_controlnet.

    python benchmarks/train_step.py                                    # small, on any machine
    python benchmarks/train_step.py --family sd15 --batch 32           # 512 px, one GPU
    python benchmarks/train_step.py --family sdxl --batch 4            # 1024 px

Weights are random, in the published shapes; scenes are the demo's at the base's size, encoded once
(`anyscene prepare cache`), so that neither side pays for the first stage. Ours is `anyscene train`
as users run it: its loader, callbacks, clipping, moving average. The loop gets its batches for
nothing, from memory, and has neither average nor hint augmentation: what is left is a ControlNet
of five channels on the frozen UNet, text encoding, AdamW, clipping, bf16. Rounds alternate on the
same device, and each process of a round starts afresh; the figures are medians over rounds.

MFU is the operations of UNet and FIM, as `anyscene train --dry-run` counts them, over the rate of
the device's data sheet and over a rate that is measured here with large matrix products. Not run
on a GPU so far: figures of one belong into docs/training.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FAMILIES = {"small": 64, "sd15": 512, "sdxl": 1024}
"""Pixels a side. `small` is the shipped demo base."""

OURS = {
    "ours, eager": [],
    "ours, channels_last": ["train.channels_last=true"],
    "ours, channels_last, compile": ["train.channels_last=true", "train.compile=true"],
    "ours, checkpointing": ["train.gradient_checkpointing=true"],
}
LOOPS = {
    "plain loop, eager": [],
    "plain loop, channels_last, compile": ["channels_last", "compile"],
}
SCENES = 64


@dataclass(frozen=True)
class Setting:
    """What both sides train on."""

    base: Path
    shards: Path
    batch: int
    steps: int
    precision: str


def prepare(family: str, folder: Path, size: int) -> tuple[Path, Path]:
    """A base of random weights (the demo's own for `small`) and cached scenes of its size."""
    base = REPOSITORY / "anyscene/assets/demo_base"
    if family != "small":
        from published import published_base

        from anyscene.export import stock_pipeline
        from anyscene.models.loading import fake_base

        described = published_base(folder / "described", family)
        base = folder / "base"
        stock_pipeline(fake_base(str(described)).components()).save_pretrained(base)
    for command in (
        ["prepare", "demo", "--scenes", SCENES, "--val-scenes", 1, "--size", size],
        ["prepare", "cache", folder / "data/shards/train", "--base", base],
    ):
        out = folder / ("data" if command[1] == "demo" else "cached")
        run([sys.executable, "-m", "anyscene.cli", *command, "--out", out])
    return base, folder / "cached"


def run(command: list[Any]) -> str:
    """What a command prints. Raises where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout


def measure_ours(setting: Setting, folder: Path, options: list[str]) -> dict[str, float]:
    """Images a second after the warm-up, and the peak of the device's memory, of a whole run."""
    import torch

    from anyscene.config_io import load_config
    from anyscene.metrics_file import read_metrics
    from anyscene.train import train

    yaml = folder / "run.yaml"
    yaml.write_text(
        f"name: run\nruns_dir: {folder}\nbase: {{path: {setting.base}}}\n"
        f"data: {{train: {setting.shards}, batch_size: {setting.batch}, workers: 2}}\n"
        f"train: {{steps: {3 * setting.steps}, warmup_steps: 1, precision: {setting.precision}}}\n"
        f"log: {{logger: none, progress_bar: false, every: {setting.steps}}}\n"
    )
    train(load_config(yaml, options))
    rows = read_metrics(folder / "run/metrics.csv")
    rates = [value for _, name, value in rows if name == "train/images_per_second"]
    peaks = [value for _, name, value in rows if name == "train/memory_gib"]
    peak = max(peaks) if torch.cuda.is_available() else 0
    return {"images_per_second": rates[-1], "peak_gib": peak}


def table(rows: dict[str, list[dict[str, float]]], flop: float, rates: dict[str, float]) -> str:
    """Medians over rounds, as Markdown."""
    measured = " | ".join(f"MFU, {name} rate" for name in rates)
    lines = [f"| | images/s | {measured} | peak GiB | to the eager loop |"]
    lines.append("| --- " * (4 + len(rates)) + "|")
    eager = statistics.median(r["images_per_second"] for r in rows["plain loop, eager"])
    for name, rounds in rows.items():
        speed = statistics.median(r["images_per_second"] for r in rounds)
        shares = " | ".join(f"{speed * flop / rate:.1%}" for rate in rates.values())
        peak = max(r["peak_gib"] for r in rounds)
        lines.append(f"| {name} | {speed:.3g} | {shares} | {peak:.1f} | {speed / eager:.2f} |")
    return "\n".join(lines)


def one_side(name: str, setting: Setting) -> dict[str, float]:
    """Measure one side in this process."""
    if name in LOOPS:
        from plain_loop import measure_loop

        return measure_loop(setting.base, setting.shards, setting, LOOPS[name])
    with tempfile.TemporaryDirectory() as folder:
        return measure_ours(setting, Path(folder), OURS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps against a plain loop.")
    parser.add_argument("--family", choices=FAMILIES, default="small")
    parser.add_argument("--size", type=int, help="pixels a side; default: the base's own")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="measured, after twice as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--only", nargs="*", help="names of rows")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # a round's own process
    options = parser.parse_args()
    if options.side:
        name, *paths = json.loads(options.side)
        setting = Setting(
            *map(Path, paths), batch=options.batch, steps=options.steps, precision=options.precision
        )
        print(json.dumps(one_side(name, setting)))
        return
    compare(options)


def compare(options: argparse.Namespace) -> None:
    """All rows, round by round."""
    from plain_loop import count_flop, device_rates

    size = options.size or FAMILIES[options.family]
    names = [name for name in (*LOOPS, *OURS) if not options.only or name in options.only]
    names = list(dict.fromkeys(["plain loop, eager", *names]))
    with tempfile.TemporaryDirectory() as folder:
        base, shards = prepare(options.family, Path(folder), size)
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                command = [
                    sys.executable,
                    __file__,
                    "--side",
                    json.dumps([name, *map(str, (base, shards))]),
                ]
                for key in ("batch", "steps", "precision"):
                    command += [f"--{key}", getattr(options, key)]
                rows[name].append(json.loads(run(command).splitlines()[-1]))
        flop = count_flop(base, options.batch, size)
    print(
        f"{options.family} at {size} px, batches of {options.batch}, {options.precision}: ", end=""
    )
    print(f"{flop / 1e12:.3g} TFLOP an image\n")
    print(table(rows, flop, device_rates()))


if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "benchmarks")]
    main()
