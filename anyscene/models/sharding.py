"""Networks whose weights the ranks hold in shares (FSDP2): cutting them up, and whole again.

Each block is a group of its own: its weights are gathered when it computes and freed after that. A
weight is shared along its first dimension, as a `DTensor`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from anyscene.models.attention import COMPILED_BLOCKS


def shard_network(network: nn.Module, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    """Leave each rank of `mesh` its share of a UNet's or FIM's weights, in place.

    What is gathered has `dtype`; gradients are summed and kept in float32.
    """
    computed = None if dtype is torch.float32 else dtype
    policy = MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False)
    settings: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True, "mp_policy": policy}
    for part, _ in block_groups(network):
        fully_shard(part, **settings)


def block_groups(network: nn.Module) -> list[tuple[nn.Module, list[nn.Parameter]]]:
    """What is gathered together: each block with its weights; last the network with the rest."""
    blocks = [part for part in network.modules() if type(part).__name__ in COMPILED_BLOCKS]
    groups = [(block, list(block.parameters())) for block in blocks]
    in_blocks = {id(weight) for _, weights in groups for weight in weights}
    rest = [weight for weight in network.parameters() if id(weight) not in in_blocks]
    return [*groups, (network, rest)]


def gather_networks(networks: Iterable[nn.Module]) -> None:
    """Let all ranks hold whole networks, until `release_networks`.

    From then on a forward pass is no collective: ranks may do different numbers of them.
    """
    for part in _groups(networks):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def release_networks(networks: Iterable[nn.Module]) -> None:
    """Leave each rank its share again."""
    for part in _groups(networks):
        part.set_reshard_after_forward(True, recurse=False)
        part.reshard()


def _groups(networks: Iterable[nn.Module]) -> list[FSDPModule]:
    parts = [part for network in networks for part in network.modules()]
    return [part for part in parts if isinstance(part, FSDPModule)]


def own_share(tensor: Tensor) -> Tensor:
    """The values of a tensor that this rank holds, which are all of an ordinary one. No copy."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_value(tensor: Tensor) -> Tensor:
    """An ordinary tensor of a sharded one: all ranks must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_out(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """The tensor that all ranks have, shared along its first dimension."""
    # without a source rank nothing is sent: each cuts its share out of what it has
    return distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)


def shared_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` shared out as `like` is; itself where `like` is an ordinary tensor."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    return shared_out(value, like.device_mesh)
