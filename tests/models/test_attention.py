"""Which kernels compute attention: chosen without importing what this machine cannot use."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from anyscene.config import Attention, Precision, TrainConfig
from anyscene.errors import ConfigError
from anyscene.models.attention import wants_xformers
from anyscene.optimizer import build_optimizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_attention_on_a_cpu_is_torchs_own(capsys):
    for choice in (Attention.auto, Attention.sdpa):
        assert not wants_xformers(choice, CPU, torch.float32)
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=r"^train\.attention=xformers cannot be had here: its"):
        wants_xformers(Attention.xformers, CPU, torch.float32)


def test_attention_never_imports_xformers_on_a_cpu():
    code = (
        "import sys, torch; from anyscene.config import Attention\n"
        "from anyscene.models.attention import wants_xformers\n"
        "wants_xformers(Attention.auto, torch.device('cpu'), torch.float32)\n"
        "print('xformers' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(find_spec("xformers") is not None, reason="xformers is installed")
def test_attention_auto_says_in_a_line_why_it_does_without_xformers(capsys):
    assert not wants_xformers(Attention.auto, GPU, torch.bfloat16)
    line = capsys.readouterr().out
    assert line.startswith("attention: torch's own kernels, for xformers is not installed")
    assert line.count("\n") == 1
    with pytest.raises(ConfigError, match="xformers is not installed"):
        wants_xformers(Attention.xformers, GPU, torch.bfloat16)


@pytest.mark.skipif(find_spec("xformers") is not None, reason="xformers is installed")
@pytest.mark.parametrize("error", ["OSError", "ImportError", "NotImplementedError"])
def test_attention_by_xformers_that_is_there_but_fails_costs_a_line(
    error, tmp_path, monkeypatch, capsys
):
    """Built for another CUDA, for instance."""
    package = tmp_path / "xformers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "ops.py").write_text(f"raise {error}('libcudart.so.12: no\\nsuch file')")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert not wants_xformers(Attention.auto, GPU, torch.bfloat16)
        line = capsys.readouterr().out
        assert line.endswith("for its kernels fail (libcudart.so.12: no such file)\n")
        assert line.count("\n") == 1
        with pytest.raises(ConfigError, match=r"cannot be had here: its kernels fail \(libcudart"):
            wants_xformers(Attention.xformers, GPU, torch.bfloat16)
    finally:
        sys.modules.pop("xformers", None)


@pytest.mark.parametrize("precision", list(Precision))
def test_optimizer_is_fused_but_for_fp16(precision):
    """There Lightning would leave the unscaling of a clipped gradient to the fused kernel."""
    weights = [torch.nn.Parameter(torch.ones(3))]
    optimizer = build_optimizer(
        TrainConfig(steps=1, precision=precision, weight_decay=0.5, betas=[0.5, 0.25]), weights
    )
    (group,) = optimizer.param_groups
    assert bool(group["fused"]) == (precision is not Precision.fp16)
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-5, (0.5, 0.25), 0.5)
