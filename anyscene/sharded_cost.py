"""What a rank holds where the ranks share the weights (FSDP2), from what one alone would hold."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from anyscene.models.sharding import block_groups


def saved_bytes(held: int, ranks: int) -> int:
    """What a rank saves of `held` bytes that it shares with the others."""
    return held * (ranks - 1) // ranks


def frozen_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes of the weights without gradients."""
    weights = [weight for network in networks for weight in network.parameters()]
    return sum(_bytes(weight, weight.dtype) for weight in weights if not weight.requires_grad)


def gathered_bytes(networks: Iterable[nn.Module], dtype: torch.dtype) -> int:
    """Most bytes that are gathered at one time: of each network what is in no block, two blocks
    (the next one comes while one computes), and a block's gradient before it is summed."""
    blocks: list[int] = []
    rest = 0
    for network in networks:
        *parts, (_, own) = block_groups(network)
        blocks += [sum(_bytes(weight, dtype) for weight in weights) for _, weights in parts]
        rest += sum(_bytes(weight, dtype) for weight in own)
    return rest + 3 * max(blocks, default=0)


def _bytes(weight: Any, dtype: torch.dtype) -> int:
    return weight.numel() * dtype.itemsize
