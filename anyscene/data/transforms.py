"""The forms of a sample: stored bytes, decoded arrays, a host batch, a device batch."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict, final

import cv2
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from anyscene.compositing.hint import make_hint
from anyscene.config import DataConfig
from anyscene.data.augmentation import augmented_hint
from anyscene.data.damage import check_description
from anyscene.data.png import decode_plain_grey
from anyscene.data.sample import AnyHostBatch, Meta, StoredBatch
from anyscene.data.stream import Slot
from anyscene.errors import DamageError

HALF_EXPONENTS = {torch.float16: np.int16(0x7C00), torch.bfloat16: np.int16(0x7F80)}
"""The bits of the exponent; they are all set in an infinity or NaN only."""


@dataclass
class Sample:
    """A decoded sample, uint8 but for its moments."""

    slot: Slot
    key: str
    image: np.ndarray  # H W 3, RGB: the scene, or a cached sample's foreground
    mask: np.ndarray  # H W
    elements: np.ndarray  # H W
    meta: Meta
    moments: tuple[Tensor, Tensor] | None  # mean and deviation c h w of a cached sample's latents
    prompt: str = ""


@dataclass
class Loaded:
    """The samples of a batch, and what was found damaged on the way."""

    room: int  # how many samples it can take
    samples: list[Sample] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    pixels: tuple[np.ndarray, ...] = ()  # images, masks and elements, `room` of each

    def add(self, sample: Sample) -> None:
        """Take a sample, and its pixels into the batch's memory.

        At once, so that they come from the processor's cache, and the next sample is decoded into
        memory that the system has given already: that is a tenth of the time.
        """
        images = sample.image, sample.mask, sample.elements
        if not self.pixels:
            self.pixels = tuple(np.empty((self.room, *image.shape), np.uint8) for image in images)
        rows = [stored[len(self.samples)] for stored in self.pixels]
        for row, image in zip(rows, images, strict=True):
            row[:] = image
        sample.image, sample.mask, sample.elements = rows
        self.samples.append(sample)


StreamItem = AnyHostBatch | list[str] | Exception
"""What a loader worker gives: a batch, the damage of a batch of which nothing is left, or the error
that ends the stream."""


class ShownBatch(TypedDict):
    """What every step gets: B samples of one size on the device, float32 unless said."""

    mask: Tensor  # B 1 H W in [0, 1], 1 = foreground
    elements: Tensor  # B 1 H W uint8, element numbers 1..n, 0 = none
    hint: Tensor  # B 5 H W in [0, 1], see `make_hint`
    prompt: list[str]
    key: list[str]
    counter: Tensor  # B int64, the source slot
    data_set: Tensor  # B int64, number in the mix, 0 is `data.train`
    original_size: Tensor  # B 2 int64, height and width
    crop_top_left: Tensor  # B 2 int64, y and x
    truth: list[dict[str, Any] | None]


@final
class DeviceBatch(ShownBatch):
    """Samples with their scene, for training and validation."""

    scene: Tensor  # B 3 H W in [-1, 1]


@final
class CachedDeviceBatch(ShownBatch):
    """Cached samples, for training."""

    latent_mean: Tensor  # B c h w, not scaled
    latent_std: Tensor  # B c h w


AnyDeviceBatch = DeviceBatch | CachedDeviceBatch


def decode(
    slot: Slot,
    key: str,
    members: dict[str, bytes],
    size: tuple[int, ...],
    latents: tuple[int, int, int] | None = None,
) -> Sample:
    """The sample in a shard's members. Raises `DamageError` where they break the contract.

    `latents` is the shape c h w of the latents of a cached sample, None for one with its scene.
    """
    kind = "scene" if latents is None else "foreground"
    shown = f"{kind}.jpg" if f"{kind}.jpg" in members else f"{kind}.png"
    sample = Sample(
        slot,
        key,
        image=decode_image(members, shown, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION),
        mask=decode_mask(members, "mask.png", size),
        elements=decode_mask(members, "elements.png", size),
        meta=decode_meta(members),
        moments=None if latents is None else decode_moments(members, latents),
    )
    shapes = (*size, 3), size, size
    for name, image, shape in zip(
        (shown, "mask.png", "elements.png"),
        (sample.image, sample.mask, sample.elements),
        shapes,
        strict=True,
    ):
        if image.shape != shape or image.dtype != np.uint8:
            raise DamageError(f"{name} is {image.dtype} {image.shape}, not uint8 {shape}")
    if sample.mask.max() < 128:
        raise DamageError("mask.png has no foreground")
    return sample


def decode_image(members: dict[str, bytes], name: str, flags: int) -> np.ndarray:
    """The image in a member. Raises `DamageError` where it is missing or cannot be decoded."""
    if name not in members:
        raise DamageError(f"{name} is missing")
    try:
        image = cv2.imdecode(np.frombuffer(members[name], np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise DamageError(f"{name} cannot be decoded")
    return image


def decode_mask(members: dict[str, bytes], name: str, size: tuple[int, ...]) -> np.ndarray:
    """As `decode_image`, at once where it is stored as preparation does; it may be read only."""
    image = decode_plain_grey(members.get(name, b""), size)
    return decode_image(members, name, cv2.IMREAD_UNCHANGED) if image is None else image


def decode_meta(members: dict[str, bytes]) -> Meta:
    """The description of a sample. Raises `DamageError` where it is missing or incomplete."""
    if "meta.json" not in members:
        raise DamageError("meta.json is missing")
    try:
        meta: Meta = json.loads(members["meta.json"])
        check_description(meta)
        meta["truth"]
    except (ValueError, TypeError, KeyError) as error:
        raise DamageError(f"meta.json is damaged ({error!r})") from None
    return meta


def decode_moments(members: dict[str, bytes], shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a scene's latents, as stored. Raises `DamageError` where they are
    missing, of another shape or not finite."""
    if "latents.safetensors" not in members:
        raise DamageError("latents.safetensors is missing")
    try:
        stored = safetensors.torch.load(members["latents.safetensors"])
        moments = stored["mean"], stored["std"]
    except (SafetensorError, KeyError) as error:
        raise DamageError(f"latents.safetensors is damaged ({error!r})") from None
    for values in moments:
        if values.shape != shape or not values.is_floating_point():
            found = f"{values.dtype} {tuple(values.shape)}"
            raise DamageError(f"latents.safetensors has {found}, not floats {shape}")
        if not all_finite(values):
            raise DamageError("latents.safetensors has values that are not finite")
    return moments


def all_finite(values: Tensor) -> bool:
    """`values.isfinite().all()`, ten times as fast for half precision: no exponent is all ones."""
    if values.dtype not in HALF_EXPONENTS:
        return bool(values.isfinite().all())
    exponent = HALF_EXPONENTS[values.dtype]
    return bool(((values.view(torch.int16).numpy() & exponent) != exponent).all())


def collate(batches: Iterable[Loaded]) -> Iterator[StreamItem]:
    """The host batches. Images are channels-last views: no copy on the host."""
    for batch in batches:
        samples = batch.samples
        if not samples:
            yield batch.damage
            continue
        pixels = (torch.from_numpy(stored[: len(samples)]) for stored in batch.pixels)
        image, mask, elements = pixels
        stored: StoredBatch = {
            "key": [sample.key for sample in samples],
            "counter": torch.tensor([sample.slot.counter for sample in samples]),
            "data_set": torch.tensor([sample.slot.data_set for sample in samples]),
            "mask_uint8": mask[:, None],  # B 1 H W
            "elements_uint8": elements[:, None],
            "prompt": [sample.prompt for sample in samples],
            "original_size": torch.tensor([sample.meta["original_size"] for sample in samples]),
            "crop_top_left": torch.tensor([sample.meta["crop_top_left"] for sample in samples]),
            "truth": [sample.meta["truth"] for sample in samples],
            "replaced": len(batch.damage),
            "damage": batch.damage,
        }
        image = image.permute(0, 3, 1, 2)  # B 3 H W
        moments = [sample.moments for sample in samples if sample.moments is not None]
        if moments:
            mean, std = (torch.stack(values) for values in zip(*moments, strict=True))
            yield {**stored, "foreground_uint8": image, "latent_mean": mean, "latent_std": std}
        else:
            yield {**stored, "scene_uint8": image}


def to_floats(images: Tensor, device: torch.device | str) -> Tensor:
    """uint8 images on the device in [0, 1]."""
    moved = images.to(device, non_blocking=True)
    return moved.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_device_batch(
    batch: AnyHostBatch,
    device: torch.device | str,
    *,
    augment: DataConfig | None = None,
    seed: int = 0,
) -> AnyDeviceBatch:
    """The batch on the device, as floats, with its hint.

    `augment` is for training: the hint, never the scene, is changed as `augmented_hint` says, a
    function of (seed, source slot). None: as inference shows it.
    """
    image = batch["scene_uint8"] if "scene_uint8" in batch else batch["foreground_uint8"]
    counter = batch["counter"].to(device, non_blocking=True)
    rgb, mask = to_floats(image, device), to_floats(batch["mask_uint8"], device)
    if augment is None:
        hint = make_hint(rgb, mask)
    else:
        hint = augmented_hint(rgb, mask, counter, augment, seed)
    shown: ShownBatch = {
        "mask": mask,
        "elements": batch["elements_uint8"].to(device, non_blocking=True),
        "hint": hint,
        "prompt": batch["prompt"],
        "key": batch["key"],
        "counter": counter,
        "data_set": batch["data_set"].to(device, non_blocking=True),
        "original_size": batch["original_size"].to(device, non_blocking=True),
        "crop_top_left": batch["crop_top_left"].to(device, non_blocking=True),
        "truth": batch["truth"],
    }
    if "scene_uint8" in batch:
        return {**shown, "scene": rgb * 2 - 1}
    moments = (batch["latent_mean"], batch["latent_std"])
    mean, std = (values.to(device, non_blocking=True) for values in moments)
    return {**shown, "latent_mean": mean.float(), "latent_std": std.float()}
