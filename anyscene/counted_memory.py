"""Counting memory without a device: storages that live, and a state that cannot be made here."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class EightBitAdamW:
    """The memory of bitsandbytes' AdamW: for each weight of a tensor of 4096 or more two bytes, and
    two float32 scales a block of 256; eight bytes in smaller tensors (Dettmers et al. 2022)."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.state: list[Tensor] = []

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        for parameter in [] if self.state else self.parameters:
            weights = parameter.numel()
            size = 2 * weights + 8 * -(-weights // 256) if weights >= 4096 else 8 * weights
            self.state.append(torch.empty(size, dtype=torch.uint8))


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that live while it is open, now and at their most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return

        def freed(_: Any) -> None:
            self.now -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def add_all(self, tensors: list[Any]) -> int:
        """Count tensors; returns their bytes."""
        before = self.now
        for tensor in tensors:
            self.add(tensor)
        return self.now - before

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result
