"""Two gloo processes against one: the same batches, losses and metrics."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from several_runs import keys_of_run, run_all, run_module
from training import Run, Workspace, recorded_keys, tensors

from anyscene.callbacks.metrics_csv import HEADER, read_metrics
from anyscene.ranks import node_name

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class TwoProcesses:
    """A run on two processes: its folder, its batches in global order, what it printed."""

    run: Run
    keys: list[list[str]]
    output: str
    errors: str


def train_on_two(workspace: Workspace, name: str, *overrides: str) -> TwoProcesses:
    """Train in processes of its own, as `python -m anyscene.cli train ... train.devices=2`."""
    folder = workspace.yaml.parent / f"keys-of-{name}"
    folder.mkdir()
    command = workspace.command(name, "train.devices=2", *overrides)
    done = run_module("record_keys", str(folder), *command, timeout=250)
    ranks = [
        [json.loads(line) for line in (folder / f"keys-{rank}.jsonl").read_text().splitlines()]
        for rank in (0, 1)
    ]
    keys = [first + second for first, second in zip(*ranks, strict=True)]
    return TwoProcesses(workspace.run(name), keys, done.stdout, done.stderr)


OPTIONS = ("train.steps=8", "train.validate_every=8", "sample.micro_batch=1")
"""Three validation scenes in batches of one: the first rank has one more than the second."""


@pytest.fixture(scope="module")
def two(workspace: Workspace) -> TwoProcesses:
    options = (workspace.judge, "train.resume=never", "data.workers=1", *OPTIONS)
    return train_on_two(workspace, "two", *options)


@pytest.fixture(scope="module")
def one(workspace: Workspace) -> tuple[Run, list[list[str]]]:
    with recorded_keys() as keys:
        run = workspace.train("one", *OPTIONS)
    return run, keys


def test_the_same_global_batches_and_losses(one, two):
    run, keys = one
    assert two.keys == keys
    losses, others = run.figures("train/loss"), two.run.figures("train/loss")
    assert others == pytest.approx(losses, abs=1e-3)
    assert len(losses) == 8


def test_the_same_metrics_on_the_same_images(two, workspace):
    """One process validates the checkpoint of two."""
    copy = Run(Path(shutil.copytree(two.run.folder, workspace.yaml.parent / "again")))
    figures = {name: value for step, name, value in read_metrics(copy.csv) if "val/" in name}
    copy.csv.write_text(",".join(HEADER) + "\n")
    shutil.rmtree(copy.folder / "samples")
    judge = workspace.judge
    workspace.train("again", judge, *OPTIONS)
    again = {name: value for _, name, value in read_metrics(copy.csv)}
    for found in (figures, again):  # hints are swapped within a process
        assert found.pop("val/swap_ratio") > 0
    assert again == pytest.approx(figures, rel=1e-6, abs=1e-6)
    assert again["val/images"] == 3
    assert len(again) > 8
    samples = [run.folder / "samples/step-00000008/grid.png" for run in (copy, two.run)]
    assert samples[0].read_bytes() == samples[1].read_bytes()


def test_one_process_goes_on_with_what_two_began(two, workspace, capsys):
    """The same global batches, in two micro-batches now."""
    workspace.killed_copy(two.run, "one-for-two", 3)
    capsys.readouterr()
    with recorded_keys() as keys:
        run = workspace.train("one-for-two", *OPTIONS)
    merged = [first + second for first, second in zip(keys[::2], keys[1::2], strict=True)]
    assert merged == two.keys[3:]
    assert len(merged) == 5
    told = "train.accumulate=2 instead of 1: 1 ranks go on with global batches of 4\n"
    assert capsys.readouterr().err == told
    losses, others = run.figures("train/loss"), two.run.figures("train/loss")
    assert losses == pytest.approx(others, abs=1e-3)
    start = json.loads((run.folder / "run.json").read_text())["jobs"][-1]
    assert start["changed"]["train.devices"] == [2, 1]
    assert start["changed"]["train.accumulate"] == [1, 2]
    assert_same_way(run, two.run)


LONG = (
    "train.steps=200",
    "train.learning_rate=1e-3",
    "train.checkpoint_every=200",
    "data.val=null",
)


@pytest.fixture(scope="module")
def pair(
    one: tuple[Run, list], workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[list[str]]]:
    """The batches of two runs of one pair of processes: it goes on with `one`, and trains long."""
    folder = tmp_path_factory.mktemp("pair")
    workspace.killed_copy(one[0], "two-for-one", 3)
    options = {"two-for-one": ("data.workers=1", *OPTIONS), "two-long": LONG}
    run_all([workspace.command(n, "train.devices=2", *own) for n, own in options.items()], folder)
    return {name: keys_of_run(folder, number) for number, name in enumerate(options)}


@pytest.mark.slow
def test_two_processes_go_on_with_what_one_began(one, pair, workspace):
    """The same global batches, divided between them."""
    run, keys = one
    gone_on = workspace.run("two-for-one")
    assert pair["two-for-one"] == keys[3:]
    assert len(keys[3:]) == 5
    losses = run.figures("train/loss")
    assert gone_on.figures("train/loss") == pytest.approx(losses, abs=1e-3)
    assert_same_way(gone_on, run)
    start = json.loads((gone_on.folder / "run.json").read_text())["jobs"][-1]
    assert start["step"] == 3
    assert start["changed"]["train.devices"] == [1, 2]


def assert_same_way(run: Run, other: Run) -> None:
    """From the third step to the eighth the weights and their average went the same way, but for
    rounding: they end nearer to each other than a thousandth of that way."""
    begin, end, own = other.state(3), other.state(8), run.state(8)
    for part in ("state_dict", "callbacks"):
        old, new, found = (tensors(state[part]) for state in (begin, end, own))
        assert distance(found, new) < 1e-3 * distance(old, new), part


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean, over all weights."""
    assert one.keys() == other.keys()
    return sum(float((one[k].double() - other[k].double()).square().sum()) for k in one) ** 0.5


def test_rank_zero_writes_and_nothing_else_is_printed(two):
    record = json.loads((two.run.folder / "run.json").read_text())
    assert len(record["jobs"]) == 1
    assert two.output == f"run folder: {two.run.folder}\n"
    assert two.errors == ""


@pytest.mark.slow
def test_two_processes_learn_the_same_over_200_steps(pair, workspace):
    with recorded_keys() as keys:
        single = workspace.train("one-long", *LONG, "train.accumulate=2")
    merged = [first + second for first, second in zip(keys[::2], keys[1::2], strict=True)]
    assert merged == pair["two-long"]
    losses = single.figures("train/loss")
    assert len(losses) == 200
    assert workspace.run("two-long").figures("train/loss") == pytest.approx(losses, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_rank_that_is_not_finite_stops_both_with_its_keys(strategy, workspace):
    options = ("train.devices=2", "train.checkpoint_every=2", "data.val=null")
    name, how = f"broken-{strategy}", f"train.strategy={strategy}"
    done = subprocess.run(
        [sys.executable, "-m", "broken_rank", *workspace.command(name, how, *options)],
        cwd=TESTS,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "is not finite" in line]
    assert lines
    assert set(lines) == {lines[0]}  # both ranks say the same
    assert re.match(
        r"anyscene: step 3 is not finite: losses [\d.]+, nan, gradient norm nan", lines[0]
    )
    named = lines[0].partition("samples ")[2].partition(";")[0].split(", ")
    assert len(named) == 2  # of the four samples, those of rank 1
    (checkpoint,) = workspace.run(name).folder.glob("checkpoints/*.ckpt")
    assert checkpoint.name == "step-00000002.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "full"), [("ddp", 0), ("fsdp2", 1)])
def test_a_rank_with_a_full_disk_ends_both_with_its_reason(strategy, full, workspace):
    """And the first rank does not wait for a share that never comes."""
    options = ("train.devices=2", "data.val=null", f"train.strategy={strategy}")
    environment = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "full_disk", *workspace.command(f"full-{strategy}", *options)],
        cwd=TESTS,
        env=os.environ | environment | {"FULL_DISK": str(full)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    reason = "[Errno 28] No space left on device"
    if strategy == "fsdp2":
        reason = f"rank 1 on {node_name()}: {reason}"
    told = f"anyscene: the last checkpoint could not be written ({reason}); make room, and"
    assert done.stderr.count(told) == done.stderr.count("anyscene: ") == 2  # both say the same
    assert "Traceback" not in done.stderr
    assert list(workspace.run(f"full-{strategy}").folder.glob("checkpoints/*")) == []
