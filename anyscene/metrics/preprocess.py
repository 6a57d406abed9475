"""How images come to a feature network: pure functions of float tensors in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor


def as_saved(images: Tensor) -> Tensor:
    """Images as a PNG file of them reads: rounded to 1/255, float32 in [0, 1].

    So figures of tensors in training equal those of the files. uint8 is taken as [0, 255].
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    return to_levels(images.float().clamp(0, 1))


def to_levels(images: Tensor) -> Tensor:
    """Values in [0, 1] rounded to 1/255."""
    return (images * 255).round() / 255


def resize_bicubic(images: Tensor, height: int, width: int) -> Tensor:
    """Images B 3 H W in another size, as Pillow's bicubic filter on floats, clamped to [0, 1].

    clean-fid's definition (Parmar et al. 2022): antialiased when it makes smaller, not rounded.
    """
    if images.shape[-2:] == (height, width):
        return images
    resized = F.interpolate(images, (height, width), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def resize_and_crop(images: Tensor, side: int) -> Tensor:
    """Images B 3 H W with `side` as their short side, its centre square, rounded to 1/255.

    CLIP's own preparation (torchvision's rounding of the crop's corner), which is on 8-bit images.
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    tall, wide = side * height // short, side * width // short
    resized = to_levels(resize_bicubic(images, tall, wide))
    top, left = round((tall - side) / 2), round((wide - side) / 2)
    return resized[..., top : top + side, left : left + side]


def resize_square(images: Tensor, side: int) -> Tensor:
    """Images B 3 H W squeezed into a square, rounded to 1/255, as FD-DINOv2 does."""
    return to_levels(resize_bicubic(images, side, side))


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std by channel."""
    shift, scale = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (mean, std)
    )
    return (images - shift) / scale


def pad_to_square(image: Tensor, value: float) -> Tensor:
    """An image 3 H W in the middle of a square of its long side."""
    height, width = image.shape[-2:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    padding = (left, side - width - left, top, side - height - top)
    return F.pad(image, padding, value=value)
