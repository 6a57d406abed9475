"""FSDP2 on two gloo processes against DDP: the same run, with each weight on one rank alone."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionControlNetPipeline
from several_runs import keys_of_run, run_all
from training import Run, Workspace, assert_same_training_state, tensors

from anyscene.checkpoint import (
    check_checkpoint,
    last_good_checkpoint,
    read_checkpoint,
    remove_checkpoint,
)
from anyscene.cli import main
from anyscene.errors import DamageError
from anyscene.export import export

pytestmark = pytest.mark.slow  # a pair of processes makes six runs

NAMES = (
    "data-parallel",
    "sharded",
    "sharded-again",
    "from-shares",
    "from-one-file",
    "sharded-bf16",
)
OPTIONS = (
    "train.devices=2",
    "train.learning_rate=1e-4",  # Adam turns rounding of a gradient near 0 into whole steps
    "train.clip_norm=0.005",  # below the gradient's, so that clipping matters
    "train.accumulate=2",
    "train.validate_every=6",
    "sample.micro_batch=1",  # of three validation scenes the first rank has two
)


@dataclass(frozen=True)
class Runs:
    """The runs of one pair of processes, and what they noted."""

    folder: Path
    workspace: Workspace

    def run(self, name: str) -> Run:
        return self.workspace.run(name)

    def keys(self, name: str) -> list[list[str]]:
        """The samples of each micro-batch of both ranks."""
        return keys_of_run(self.folder, NAMES.index(name))

    def weights(self, name: str, rank: int) -> dict[str, list[int]]:
        """By network: how many weights the rank holds, how many there are."""
        noted = self.folder / f"weights-{NAMES.index(name)}-{rank}.json"
        return json.loads(noted.read_text())


@pytest.fixture(scope="module")
def runs(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Both strategies, and each gone on with from the other's third step."""
    half = {name: workspace.run(name).checkpoint(3) for name in NAMES[:2]}
    shared = "train.strategy=fsdp2"
    own = (
        (workspace.judge,),
        (workspace.judge, shared),
        (shared, f"train.resume={half['sharded']}"),
        (f"train.resume={half['sharded']}",),
        (shared, f"train.resume={half['data-parallel']}"),
        (workspace.judge, shared, "train.precision=bf16", "train.gradient_checkpointing=true"),
    )
    folder = tmp_path_factory.mktemp("several")
    commands = [
        workspace.command(name, *OPTIONS, *options)
        for name, options in zip(NAMES, own, strict=True)
    ]
    run_all(commands, folder)
    return Runs(folder, workspace)


def assert_close(one: dict, other: dict) -> None:
    """Weights, average and optimizer are those of the same run, but for rounding."""
    for part in ("state_dict", "callbacks", "optimizer_states"):
        first, second = tensors(one[part]), tensors(other[part])
        assert first.keys() == second.keys()
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=1e-5, msg=name)


def test_sharded_training_is_that_of_ddp(runs):
    assert runs.keys("sharded") == runs.keys("data-parallel")
    one, other = runs.run("sharded"), runs.run("data-parallel")
    for figure in ("train/loss", "train/gradient_norm", "val/loss"):
        values = other.figures(figure)
        assert one.figures(figure) == pytest.approx(values, rel=1e-4, abs=1e-5), figure
        assert len(values) == (1 if "val/" in figure else 6)
    assert min(other.figures("train/gradient_norm").values()) > 0.005
    assert_close(read_checkpoint(one.checkpoint(6)), other.state(6))
    moved = other.state(6)["state_dict"], other.state(3)["state_dict"]
    assert max(float((moved[0][k] - moved[1][k]).abs().max()) for k in moved[0]) > 1e-4


def test_sharded_training_in_bf16_is_that_in_float32_but_for_rounding(runs):
    """As the recipes compute: bf16, with activations that are computed again."""
    one, other = runs.run("sharded-bf16"), runs.run("sharded")
    for figure in ("train/loss", "train/gradient_norm", "val/loss"):
        values = other.figures(figure)
        assert one.figures(figure) == pytest.approx(values, rel=0.02), figure
        assert one.figures(figure) != values
    state = tensors(read_checkpoint(one.checkpoint(6))["state_dict"])
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_each_rank_holds_its_half_of_every_network(runs):
    for rank in (0, 1):
        counts = runs.weights("sharded", rank)
        assert counts.keys() == {"unet", "fim", "average"}
        for held, whole in counts.values():
            assert held == pytest.approx(whole / 2, rel=0.05)
        assert counts["unet"][1] > 30_000
        assert all(held == whole for held, whole in runs.weights("data-parallel", rank).values())
    shares = sorted(runs.run("sharded").checkpoint(6).glob("*.ckpt"))
    whole = runs.run("data-parallel").checkpoint(6).stat().st_size
    assert len(shares) == 2
    assert sum(share.stat().st_size for share in shares) == pytest.approx(whole, rel=0.3)


def test_a_sharded_run_goes_on_exactly(runs):
    states = [
        read_checkpoint(runs.run(n).checkpoint(6), torch.cat) for n in ("sharded", "sharded-again")
    ]
    assert_same_training_state(*states)
    assert runs.keys("sharded-again") == runs.keys("sharded")[6:]


def test_either_strategy_goes_on_with_what_the_other_saved(runs):
    whole = runs.run("data-parallel").state(6)
    assert_close(runs.run("from-shares").state(6), whole)
    assert_close(read_checkpoint(runs.run("from-one-file").checkpoint(6)), whole)


def test_shares_convert_to_one_file_that_is_exported_and_trained_on(runs, tmp_path, capsys):
    run, one = runs.run("sharded"), tmp_path / "one.ckpt"
    assert main(["convert", str(run.checkpoint(3)), "--out", str(one)]) == 0
    assert capsys.readouterr().out == f"checkpoint: {one}\n"
    check_checkpoint(one)
    assert_close(read_checkpoint(one), runs.run("data-parallel").state(3))

    alone = runs.workspace.train(
        "alone", f"train.resume={one}", *OPTIONS[1:], "train.devices=1", "train.accumulate=4"
    )
    assert alone.figures("train/loss").keys() == {4, 5, 6}
    assert alone.state(6)["global_step"] == 6

    folders = [export(run.folder, tmp_path / n, checkpoint=c) for n, c in (("a", one), ("b", None))]
    fims = [StableDiffusionControlNetPipeline.from_pretrained(f).controlnet for f in folders]
    for step, fim in ((3, fims[0]), (6, fims[1])):
        average = read_checkpoint(run.checkpoint(step))["callbacks"]["MovingAverage"]
        for name, value in fim.state_dict().items():
            assert torch.equal(value, average[f"module.{name}"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("{folder}", "--out", "{folder}/x.pt"), "must end in .ckpt"),
        (("{one}", "--out", "{folder}/x.ckpt"), "is one file already"),
        (("{folder}/none.ckpt", "--out", "{folder}/x.ckpt"), "no checkpoint"),
        (("{folder}", "--out", "{one}"), "is there already"),
        (("{folder}", "--out", "{run}/run.ckpt"), "run.json is there already"),
        (("{run}/checkpoints", "--out", "{run}/x.ckpt"), "is no checkpoint in shares"),
    ],
)
def test_convert_refuses_in_one_line(arguments, told, runs, capsys):
    places = {
        "folder": runs.run("sharded").checkpoint(6),
        "one": runs.run("data-parallel").checkpoint(6),
        "run": runs.run("sharded").folder,
    }
    assert main(["convert", *(word.format(**places) for word in arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_lost_or_damaged_share_falls_back(runs, workspace, capsys):
    copy = workspace.killed_copy(runs.run("sharded"), "damaged-share", 6)
    share = sorted(copy.checkpoint(6).glob("*.ckpt"))[1]
    share.write_bytes(share.read_bytes()[:-1])
    assert last_good_checkpoint(copy.folder / "checkpoints") == copy.checkpoint(3)
    assert f"{share} has" in capsys.readouterr().err
    share.unlink()
    with pytest.raises(DamageError, match="is missing beside its record"):
        check_checkpoint(copy.checkpoint(6))
    remove_checkpoint(copy.checkpoint(6))
    names = sorted(path.name for path in (copy.folder / "checkpoints").iterdir())
    assert names == ["step-00000003.ckpt", "step-00000003.json"]
