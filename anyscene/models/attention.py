"""Which kernels compute attention: the one place that knows torch's own and those of xformers."""

from importlib.util import find_spec
from typing import Any

import torch

from anyscene.config import Attention
from anyscene.errors import ConfigError
from anyscene.ranks import is_first_process

COMPILED_BLOCKS = ("BasicTransformerBlock", "ResnetBlock2D")
"""The blocks of which diffusers' UNets and ControlNets are built."""


def wants_xformers(choice: Attention, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether xformers shall compute attention of `dtype`; imports it only where it may.

    Under `auto` a GPU without it costs one line. Raises `ConfigError` where it is asked for and
    does not work here.
    """
    if choice is Attention.sdpa or (choice is Attention.auto and device.type != "cuda"):
        return False
    problem = xformers_problem(device, dtype)
    if problem is not None and choice is Attention.xformers:
        raise ConfigError(
            f"train.attention=xformers cannot be had here: {problem}; use train.attention=auto or "
            "sdpa, torch's own kernels"
        )
    if problem is not None and is_first_process():
        print(f"attention: torch's own kernels, for {problem}")
    return problem is None


def xformers_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why xformers' kernels cannot be used on a device; None where a forward and backward pass of
    one small attention works."""
    if device.type != "cuda":
        return f"its kernels need a CUDA device, and this run is on {device.type}"
    if find_spec("xformers") is None:
        return "xformers is not installed (pip install 'anyscene[cuda]')"
    try:
        from xformers.ops import memory_efficient_attention  # pyright: ignore[reportMissingImports]

        probe = torch.randn(1, 64, 2, 40, device=device, dtype=dtype, requires_grad=True)
        memory_efficient_attention(probe, probe, probe).sum().backward()
    except (ImportError, OSError, RuntimeError) as error:
        return f"its kernels fail ({' '.join(str(error).split())[:160]})"
    return None


def use_xformers(networks: list[Any]) -> None:
    """Attention of diffusers' networks by xformers' kernels."""
    for network in networks:
        network.enable_xformers_memory_efficient_attention()


def compile_blocks(networks: list[Any]) -> int:
    """`torch.compile` the repeated blocks of networks, in place; returns how many.

    Each is called as before and keeps its names. Blocks of one class share their code, so dynamo
    must be let compile it once for each of their shapes, in training and in evaluation.
    """
    modules = [module for network in networks for module in network.modules()]
    blocks = [module for module in modules if type(module).__name__ in COMPILED_BLOCKS]
    settings: Any = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, 4 * len(blocks))
    for block in blocks:
        block.compile()
    return len(blocks)
