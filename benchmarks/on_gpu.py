"""What only a GPU can show, in one command: its tests, the step's speed and memory, the demo at
128 px with a larger base.

    python benchmarks/on_gpu.py                      # some 15 minutes are expected
    python benchmarks/on_gpu.py --parts tests sd15   # only these

Where there is no GPU all is done in small, which shows that it goes through, and nothing else. Each
part has a time limit, and its output goes to `PART.log` in the folder `--out`; one that fails or
takes too long does not keep the others from running. Figures: `train_step.py`'s tables in the logs,
and in `sd15.json` and `sdxl.json`; `scale/evaluation.json`, with pictures to look at in
`scale/runs/demo128_fim/samples`.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
LIMITS = {"tests": 240, "sd15": 300, "sdxl": 420, "scale": 420}
"""Seconds, by part."""
Command = list[str]


def anyscene(*words: str) -> Command:
    return [sys.executable, "-m", "anyscene.cli", *words]


def steps(family: str, batch: int, out: Path, small: bool) -> list[Command]:
    """The training step against the plain loops."""
    command = [sys.executable, "benchmarks/train_step.py", "--out", str(out / f"{family}.json")]
    if small:
        rows = ["plain loop, eager", "ours, eager"]
        return [[*command, "--seconds", "1", "--warm-steps", "1", "--rows", *rows]]
    sizes = ["--family", family, "--batch", str(batch), "--workers", "8"]
    return [[*command, *sizes, "--seconds", "5", "--limit", "90"]]


def scale(out: Path, small: bool) -> list[Command]:
    """The demo's scenes at 128 px with a larger base, as the headers of the two recipes have it."""
    folder = out / "scale"
    data, model, runs, exports = (str(folder / n) for n in ("data", "model", "runs", "exports"))
    base, judge = f"{model}/base", f"{model}/judge"
    drawn = ["--scenes", "10000", "--val-scenes", "256", "--size", "128"]
    prepare_base = ["prepare", "base", "--shards", f"{data}/shards", "--out", model]
    prepare_base += ["--init", "anyscene/assets/demo_base", "--latent-channels", "8"]
    prepare_base += ["--unet-channels", "64,128,192", "--steps", "600", "--device", "cuda"]
    first, shown, less = [anyscene(*prepare_base)], "64", []
    if small:  # the shipped base, at its own size
        base, judge = "anyscene/assets/demo_base", "anyscene/assets/demo_judge"
        drawn = ["--scenes", "64", "--val-scenes", "8"]
        first, shown = [], "8"
        less = ["data.val_samples=8", "data.batch_size=4", "data.workers=0", "sample.steps=2"]
        less += ["train.steps=2", "train.checkpoint_every=2", "train.validate_every=2"]
        less += ["train.warmup_steps=1", "fim.fit_embedder_steps=1"]
    changes = [f"runs_dir={runs}", f"data.train={data}/shards/train", f"data.val={data}/shards/val"]
    changes += [f"metrics.judge={judge}", *less]
    evaluation = ["--shards", f"{data}/shards/val", "--judge", judge, "--samples", shown]
    evaluation += ["--out", str(folder / "evaluation.json")]
    recipes = "configs/train/demo128_base.yaml", "configs/train/demo128_fim.yaml"
    return [
        anyscene("prepare", "demo", "--out", data, *drawn, "--workers", str(os.cpu_count() or 1)),
        *first,
        anyscene("train", recipes[0], f"base.path={base}", *changes),
        anyscene("export", f"{runs}/demo128_base", "--out", f"{exports}/base", "--half"),
        anyscene("train", recipes[1], f"base.path={exports}/base", *changes),
        anyscene("export", f"{runs}/demo128_fim", "--out", f"{exports}/fim", "--half"),
        anyscene("evaluate", f"{exports}/fim", *evaluation),
    ]


def run(part: str, commands: list[Command], out: Path) -> str:
    """Run a part; returns how it ended."""
    started = time.perf_counter()
    with (out / f"{part}.log").open("w") as log:
        for command in commands:
            left = LIMITS[part] - (time.perf_counter() - started)
            print(f"{part}: {' '.join(command[1:])}", file=log, flush=True)
            try:
                subprocess.run(
                    command, cwd=REPOSITORY, stdout=log, stderr=log, check=True, timeout=left
                )
            except subprocess.TimeoutExpired:
                return f"took more than {LIMITS[part]} s"
            except subprocess.CalledProcessError as error:
                return f"failed with {error.returncode}: {' '.join(command[1:])}"
    return f"done in {time.perf_counter() - started:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="What only a GPU can show.")
    parser.add_argument("--out", type=Path, default=Path("runs/on_gpu"), help="logs and figures")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    small = not torch.cuda.is_available()
    parts = {
        "tests": [[sys.executable, "-m", "pytest", "-q", "-m", "gpu"]],
        "sd15": steps("sd15", 32, out, small),
        "sdxl": steps("sdxl", 4, out, small),
        "scale": scale(out, small),
    }
    for part in options.parts:
        print(f"{part}: {run(part, parts[part], out)}", flush=True)


if __name__ == "__main__":
    main()
