"""The base of feature networks: an image's features do not depend on its neighbours in a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ExtractorRecord:
    """What made features: two sets of features can be compared only if these are equal."""

    name: str  # such as inception-2015-12-05, or the network's class
    sha256: str  # of its weights
    preprocessing: str  # from the image to the network's input, in words
    width: int  # numbers an image

    def as_dict(self) -> dict[str, str | int]:
        """For a JSON file."""
        return asdict(self)


class FeatureExtractor(nn.Module, ABC):
    """A network that gives a row of `record.width` numbers for an image, in float32.

    Every call of the network has `micro_batch` images of one size, the last one padded with copies:
    at a fixed shape an image gets the same bits whatever its neighbours are.
    """

    record: ExtractorRecord
    side: int  # pixels of the network's square input

    def __init__(self, micro_batch: int) -> None:
        super().__init__()
        self.micro_batch = micro_batch

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """Images b 3 H W in [0, 1], rounded to 1/255, as the network takes them."""

    @abstractmethod
    def rows(self, prepared: Tensor) -> Tensor:
        """The network on prepared images: b D."""

    def forward(self, images: Tensor) -> Tensor:
        """Features B D float32 of images B 3 H W in [0, 1], rounded to 1/255 (`as_saved`)."""
        return in_micro_batches(
            lambda part: self.rows(self.prepare(part)), images, self.micro_batch
        )


@torch.no_grad()
def in_micro_batches(call: Callable[[Tensor], Tensor], inputs: Tensor, size: int) -> Tensor:
    """`call` on parts of exactly `size` rows, the last one padded, in exact float32.

    Whatever the surroundings have set: no autocast, no TF32.
    """
    parts = []
    for part in inputs.split(size):
        padding = part[-1:].expand(size - len(part), *part.shape[1:])
        with exact_floats(inputs.device.type):
            parts.append(call(torch.cat([part, padding]))[: len(part)].float())
    return torch.cat(parts)


@contextmanager
def exact_floats(device_type: str) -> Iterator[None]:
    """float32 arithmetic without autocast or TF32, for figures that training and scoring share."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
