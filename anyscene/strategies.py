"""How the ranks share the work: data parallel (DDP), or with sharded weights too (FSDP2)."""

import inspect
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from anyscene.checkpoint import AtomicCheckpointIO, read_checkpoint
from anyscene.config import Strategy as Choice
from anyscene.config import TrainConfig
from anyscene.models.sharding import shared_like, shared_out
from anyscene.sharded_checkpoint import with_own_shares


def build_strategy(train: TrainConfig, timeout: timedelta) -> Strategy | str:
    """As `train.strategy` says; for one process there is nothing to share."""
    ranks = train.devices * train.nodes
    if train.strategy is Choice.fsdp2:
        return ShardedStrategy(ranks, timeout)
    return "auto" if ranks == 1 else build_ddp(timeout)


def build_ddp(timeout: timedelta) -> DDPStrategy:
    """Data parallel, without buffers synchronised in each forward pass: the ranks may differ by a
    validation batch, and then a forward pass must not be a collective."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}  # named so since torch 2.13
    return DDPStrategy(timeout=timeout, **options)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks: the module's `configure_model` shards its networks.

    Lightning's own checkpoints are either assembled on one rank, or a folder with a pickle. Ours
    are written by each rank as `AtomicCheckpointIO` does it, and read from one file as well.
    """

    def __init__(self, ranks: int, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, timeout=timeout)

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def setup_environment(self) -> None:
        super().setup_environment()
        assert isinstance(self.checkpoint_io, AtomicCheckpointIO)
        self.checkpoint_io.share = (self.global_rank, self.world_size)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return Strategy.optimizer_state(self, optimizer)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        own = with_own_shares(checkpoint)
        self.checkpoint_io.save_checkpoint(own, filepath, storage_options)

    def load_checkpoint(
        self,
        checkpoint_path: Any,
        weights_only: bool | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """The checkpoint, one file or shares, that was checked when it was chosen."""
        mesh = self.device_mesh["data_parallel"]

        def own_rows(shares: list[Tensor]) -> Tensor:
            return shared_out(torch.cat(shares), mesh)  # one whole tensor at a time

        return read_checkpoint(Path(checkpoint_path), own_rows)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(sharded_as(optimizer, state))


def sharded_as(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer with each weight's averages shared out as the weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    own = {
        number: {name: _as_weight(value, weights[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": own}


def _as_weight(value: Any, weight: Tensor) -> Any:
    fits = isinstance(value, Tensor) and value.shape == weight.shape
    return shared_like(value, weight) if fits else value
