"""Resizing against Pillow, which clean-fid and CLIP define theirs by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from anyscene.metrics.preprocess import (
    as_saved,
    pad_to_square,
    resize_and_crop,
    resize_bicubic,
    resize_square,
)

PHOTOS = Path(__file__).resolve().parents[3] / "shared/data/coco_mini/images"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """u8 H W 3: smooth shapes with hard edges and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [128 + 127 * np.sin((seed + c + 1) * (x / 17 + y / 23)) for c in range(3)]
    image = np.stack(waves, axis=2)
    image[height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 255)
    image += random.normal(0, 20, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def clean_fid_resize(image: np.ndarray, side: int) -> np.ndarray:
    """clean-fid's definition: Pillow's bicubic on each channel as floats, clipped, in [0, 255]."""
    channels = [
        Image.fromarray(image[..., channel].astype(np.float32)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel).clip(0, 255) for channel in channels])


def assert_as_clean_fid(image: np.ndarray) -> None:
    ours = resize_bicubic(as_saved(tensor(image)), 299, 299)[0].numpy() * 255
    assert np.abs(ours - clean_fid_resize(image, 299)).max() < 0.01


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (480, 640), (299, 299), (300, 1000)])
def test_bicubic_is_within_a_hundredth_of_a_level_of_clean_fid(size):
    assert_as_clean_fid(picture(*size))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no ../shared/data/coco_mini")
def test_bicubic_on_photos():
    for path in sorted(PHOTOS.glob("*.jpg"))[:4]:
        assert_as_clean_fid(np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("size", [(512, 512), (480, 640), (333, 250), (64, 64)])
def test_clip_preparation_is_that_of_transformers_but_for_eight_bits_between_the_passes(size):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = picture(*size, seed=1)
    settings = {"size": {"shortest_edge": 224}, "crop_size": 224, "do_normalize": False}
    processor = CLIPImageProcessorPil(**settings)
    theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    ours = resize_and_crop(as_saved(tensor(image)), 224)
    assert ours.shape == theirs.shape
    levels = ((ours - theirs).abs() * 255).round()
    # Pillow rounds, and clips what overshoots, between its two passes too
    assert float(levels.mean()) < 0.3
    assert float((levels > 1).float().mean()) < 0.01


@pytest.mark.parametrize("size", [(480, 640), (64, 64)])
def test_square_for_dino_has_eight_bits_as_pillow_s(size):
    """FD-DINOv2 resizes files: Pillow's result is rounded to levels before it is normalised."""
    image = picture(*size)
    theirs = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC))
    ours = resize_square(as_saved(tensor(image)), 224)[0].permute(1, 2, 0) * 255
    assert torch.equal(ours, ours.round())
    levels = np.abs(ours.numpy() - theirs)
    assert levels.mean() < 0.3
    assert (levels > 1).mean() < 0.01


def test_crop_at_an_odd_margin_begins_where_torchvision_s_does():
    """`int(round((width - side) / 2.0))`, which takes 1.5 for 2, and 0.5 for 0."""
    image = torch.arange(8) / 255
    assert (resize_and_crop(image[:7].expand(1, 3, 4, 7), 4)[0, 0, 0] * 255).tolist() == [
        2,
        3,
        4,
        5,
    ]
    assert (resize_and_crop(image[:5].expand(1, 3, 4, 5), 4)[0, 0, 0] * 255).tolist() == [
        0,
        1,
        2,
        3,
    ]


def test_floats_count_as_the_png_file_of_them():
    images = torch.rand(1, 3, 8, 8) * 1.2 - 0.1
    saved = (images.clamp(0, 1) * 255).round().byte()
    assert torch.equal(as_saved(images), as_saved(saved))
    assert as_saved(saved).dtype == torch.float32


def test_padding_keeps_the_image_in_the_middle():
    padded = pad_to_square(torch.ones(3, 2, 5), 0.5)
    assert padded.shape == (3, 5, 5)
    assert padded[0, :, 0].tolist() == [0.5, 1, 1, 0.5, 0.5]
