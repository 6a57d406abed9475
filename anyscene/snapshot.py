"""A copy of a training state in memory, made while the next step is computed."""

from contextlib import nullcontext
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection


class Snapshot:
    """The structure of a nested state at once, and its tensors when a thread copies them.

    Until then they must not be changed. On a GPU the copies see what it has been told to compute so
    far, and wait for nothing that it is told later.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = apply_to_collection(state, torch.Tensor, torch.Tensor.detach)
        self.stream: torch.cuda.Stream | None = None
        if torch.cuda.is_available():
            self.stream = torch.cuda.Stream()
            self.stream.wait_stream(torch.cuda.current_stream())

    def in_memory(self) -> dict[str, Any]:
        """The copy, to be had once: nothing holds the originals any longer than it needs them."""
        state, self.state = self.state, {}
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            return apply_to_collection(state, torch.Tensor, copy_to_memory)


def copy_to_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A copy that is there when this returns."""
    return tensor.to("cpu", copy=True)
