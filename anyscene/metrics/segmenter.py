"""A small segmenter that finds pasted elements in a scene, for scenes whose true masks are known.

It judges generated scenes: the share of object pixels that lie where no element was put, and the
share of elements that is missing. Its own error on real held-out scenes is its noise floor.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anyscene.errors import InputError

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"


class Segmenter(Protocol):
    """Anything that finds the foreground of an image."""

    def __call__(self, image: Tensor, mask: Tensor) -> Tensor:
        """Probability of foreground B 1 H W in [0, 1] of an image B 3 H W in [0, 1].

        `mask`, B 1 H W in [0, 1], is where elements were put: a prompt for segmenters that need
        one, others do not look at it.
        """
        ...


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class SmallSegmenter(nn.Module):
    """A U-Net for images whose sides are divisible by 2 to the number of `widths` minus one.

    `widths` are the channels of each level, finest first; each level halves the resolution.
    The default has about 0.15 million parameters and works on sides divisible by 8.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        pairs = list(zip(self.widths, self.widths[1:], strict=False))
        self.stem = _block(3, self.widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(_block(fine, coarse, 2), _block(coarse, coarse)) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(_block(coarse + fine, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(self.widths[0], 1, 1)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features of each level, finest first, of an image B 3 H W in [0, 1]."""
        stride = 2 ** len(self.down)
        height, width = image.shape[-2:]
        if height % stride or width % stride:
            raise ValueError(f"image of {height}x{width}: both sides must be multiples of {stride}")
        levels = [self.stem(image * 2 - 1)]
        for layer in self.down:
            levels.append(layer(levels[-1]))
        return levels

    def logits(self, image: Tensor) -> Tensor:
        """Log odds of foreground B 1 H W of an image B 3 H W in [0, 1]."""
        *skips, hidden = self.encode(image)  # hidden B C H/8 W/8
        for layer, skip in zip(self.up, reversed(skips), strict=True):
            hidden = layer(torch.cat([F.interpolate(hidden, scale_factor=2.0), skip], dim=1))
        return self.head(hidden)

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Probability of foreground B 1 H W in [0, 1] of an image B 3 H W in [0, 1].

        It is not shown where elements were put: `mask` is for other kinds of `Segmenter`.
        """
        return self.logits(image).sigmoid()

    def features(self, image: Tensor) -> Tensor:
        """One feature vector B D an image: the coarsest level, averaged over the image."""
        return self.encode(image)[-1].mean(dim=(2, 3))

    @property
    def feature_count(self) -> int:
        """D, the length of a feature vector."""
        return self.widths[-1]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"class": type(self).__name__, "widths": list(self.widths)}
        (folder / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n")
        weights = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_NAME)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SmallSegmenter":
        """The segmenter of a folder, ready to judge. Raises `InputError` if a file is missing."""
        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise InputError(
                    f"no segmenter in {str(folder)!r}: {name} is missing; "
                    "make one with `anyscene prepare base`"
                )
        config = json.loads((folder / CONFIG_NAME).read_text())
        segmenter = cls(widths=tuple(config["widths"]))
        segmenter.load_state_dict(load_file(folder / WEIGHTS_NAME), strict=True)
        return segmenter.eval().requires_grad_(False)


def _soften(image: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of B 3 H W with its own blur (0 to about 1.2 px) and noise (deviation 0 to 0.08).

    Generated images are a little blurry and noisy; a segmenter that only saw clean ones fails.
    """
    shape = (len(image), 1, 1, 1)
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # binomial: a Gaussian of deviation 1 px
    kernel = torch.outer(row, row).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    image = torch.lerp(image, blurred, torch.rand(shape, generator=generator))
    deviation = 0.08 * torch.rand(shape, generator=generator)
    noise = torch.randn(image.shape, generator=generator)
    return (image + deviation * noise).clamp(0, 1)


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy plus one minus the soft Dice overlap, both B 1 H W, mask in [0, 1]."""
    probability = logits.sigmoid()
    overlap = (probability * mask).sum(dim=(1, 2, 3))
    total = (probability + mask).sum(dim=(1, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return F.binary_cross_entropy_with_logits(logits, mask) + 1 - dice.mean()


def train_segmenter(
    images: Tensor,
    masks: Tensor,
    *,
    steps: int = 600,
    batch: int = 16,
    learning_rate: float = 4e-3,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> SmallSegmenter:
    """A segmenter trained on scenes and their masks, in evaluation mode on `device`.

    images: u8 N 3 H W. masks: u8 N 1 H W, 255 is foreground. `progress` is called after each step
    with the number of steps done and the loss. The result depends on the arguments alone (and on
    the kind of device and the number of threads). Raises ValueError on other types or sizes.
    """
    if images.dtype != torch.uint8 or masks.dtype != torch.uint8 or len(images) != len(masks):
        raise ValueError(
            f"images {tuple(images.shape)} {images.dtype} and masks {tuple(masks.shape)} "
            f"{masks.dtype}: expected as many of each, both uint8"
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = SmallSegmenter().to(device).train()
    optimizer = torch.optim.AdamW(segmenter.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        image = _soften(images[chosen].float() / 255, generator)
        mask = masks[chosen].float() / 255
        image = image.to(device, memory_format=torch.channels_last)  # 1.5 times as fast on CPU
        loss = segmentation_loss(segmenter.logits(image), mask.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step, loss.item())
    return segmenter.eval().requires_grad_(False)
