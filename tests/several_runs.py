"""`python -m several_runs FOLDER`: the `anyscene` commands of FOLDER/commands.json, one by one.

Lightning starts the other rank with the same command; one pair of processes makes all runs. Of run
n rank r writes its batches' keys to FOLDER/keys-n-r.jsonl, and to FOLDER/weights-n-r.json how many
weights of each network it holds, and how many the network has. With shared weights ranks begin with
other embedders, as if they had fitted them unlike each other: the first one's must count.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from anyscene.cli import main

TESTS = Path(__file__).resolve().parent


def run_module(module: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run one of the tests' modules as a program, on one thread a process; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done


def run_all(commands: list[list[str]], folder: Path) -> None:
    """Let a pair of processes of its own make runs with `train.devices=2`, without a word."""
    (folder / "commands.json").write_text(json.dumps(commands))
    done = run_module("several_runs", str(folder), timeout=500)
    assert done.stderr == ""


def keys_of_run(folder: Path, number: int) -> list[list[str]]:
    """The samples of each micro-batch of both ranks."""
    ranks = [(folder / f"keys-{number}-{rank}.jsonl").read_text() for rank in (0, 1)]
    return [
        json.loads(one) + json.loads(other)
        for one, other in zip(*(noted.splitlines() for noted in ranks), strict=True)
    ]


def record(folder: Path, number: int) -> None:
    """Note what run `number` does from now on."""
    import torch

    from anyscene.config import Config, Strategy
    from anyscene.models.sharding import own_share
    from anyscene.module import SceneModule

    end = f"{number}-{os.environ.get('LOCAL_RANK', '0')}"
    keys = folder / f"keys-{end}.jsonl"

    def note_keys(self: SceneModule, batch: Any, batch_idx: int) -> torch.Tensor:
        with keys.open("a") as file:
            file.write(json.dumps(batch["key"]) + "\n")
        return training_step(self, batch, batch_idx)

    def note_weights(self: SceneModule) -> Any:
        networks = {"unet": self.base.unet, "fim": self.injection, "average": self.averaged}
        counts = {
            name: [sum(count(p) for p in network.parameters()) for count in (held, torch.numel)]
            for name, network in networks.items()
            if network is not None
        }
        (folder / f"weights-{end}.json").write_text(json.dumps(counts))
        return configure_optimizers(self)

    def held(parameter: torch.Tensor) -> int:
        return own_share(parameter.detach()).numel()

    def start_unlike_the_first(self: SceneModule, config: Config) -> None:
        init(self, config)
        rank = int(os.environ.get("LOCAL_RANK", "0"))
        if config.train.strategy is Strategy.fsdp2 and self.injection is not None:
            with torch.no_grad():
                for weight in self.injection.controlnet_cond_embedding.parameters():
                    weight += rank

    SceneModule.__init__ = start_unlike_the_first
    SceneModule.training_step = note_keys
    SceneModule.configure_optimizers = note_weights


if __name__ == "__main__":
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.module import SceneModule

    init = SceneModule.__init__
    training_step = SceneModule.training_step
    configure_optimizers = SceneModule.configure_optimizers
    folder = Path(sys.argv[1])
    for number, command in enumerate(json.loads((folder / "commands.json").read_text())):
        record(folder, number)
        if code := main(command):
            sys.exit(code)
