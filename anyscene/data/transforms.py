"""The forms of a sample: stored bytes, decoded arrays, a host batch, a device batch."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor

from anyscene.compositing.hint import jitter_foreground, make_hint
from anyscene.data.sample import HostBatch, Meta
from anyscene.data.stream import Slot
from anyscene.diffusion.random import Stream, uniform
from anyscene.errors import DamageError

JITTER_UNIFORMS = 3
"""Random numbers a sample that `jitter_foreground` takes."""


@dataclass
class Sample:
    """A decoded sample, uint8."""

    slot: Slot
    key: str
    scene: np.ndarray  # H W 3, RGB
    mask: np.ndarray  # H W
    elements: np.ndarray  # H W
    meta: Meta
    prompt: str = ""


@dataclass
class Loaded:
    """The samples of a batch, and what was found damaged on the way."""

    samples: list[Sample]
    damage: list[str]


StreamItem = HostBatch | list[str] | Exception
"""What a loader worker gives: a batch, the damage of a batch of which nothing is left, or the error
that ends the stream."""


class DeviceBatch(TypedDict):
    """What a training or validation step gets: B samples of one size, float32 on the device."""

    scene: Tensor  # B 3 H W in [-1, 1]
    mask: Tensor  # B 1 H W in [0, 1], 1 = foreground
    hint: Tensor  # B 5 H W in [0, 1], see `make_hint`
    prompt: list[str]
    key: list[str]
    counter: Tensor  # B int64, the source slot
    original_size: Tensor  # B 2 int64, height and width
    crop_top_left: Tensor  # B 2 int64, y and x
    truth: list[dict[str, Any] | None]


def decode(slot: Slot, key: str, members: dict[str, bytes], size: tuple[int, ...]) -> Sample:
    """The sample in a shard's members. Raises `DamageError` where they break the contract."""
    scene = "scene.jpg" if "scene.jpg" in members else "scene.png"
    sample = Sample(
        slot,
        key,
        scene=decode_image(members, scene, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION),
        mask=decode_image(members, "mask.png", cv2.IMREAD_UNCHANGED),
        elements=decode_image(members, "elements.png", cv2.IMREAD_UNCHANGED),
        meta=decode_meta(members),
    )
    shapes = (*size, 3), size, size
    for name, image, shape in zip(
        (scene, "mask.png", "elements.png"),
        (sample.scene, sample.mask, sample.elements),
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


def decode_meta(members: dict[str, bytes]) -> Meta:
    """The description of a sample. Raises `DamageError` where it is missing or incomplete."""
    if "meta.json" not in members:
        raise DamageError("meta.json is missing")
    try:
        meta: Meta = json.loads(members["meta.json"])
        captions = meta["captions"]
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise DamageError("meta.json has no captions")
        for pair in (meta["original_size"], meta["crop_top_left"]):
            if len(pair) != 2 or not all(isinstance(value, int) for value in pair):
                raise DamageError(f"meta.json has {pair} where two numbers belong")
        meta["truth"]
    except (ValueError, TypeError, KeyError) as error:
        raise DamageError(f"meta.json is damaged ({error!r})") from None
    return meta


def collate(batches: Iterable[Loaded]) -> Iterator[StreamItem]:
    """Stack the samples of each batch. The scene is a channels-last view: no copy on the host."""
    for batch in batches:
        samples = batch.samples
        if not samples:
            yield batch.damage
            continue
        yield {
            "key": [sample.key for sample in samples],
            "counter": torch.tensor([sample.slot.counter for sample in samples]),
            "scene_uint8": _stack([s.scene for s in samples]).permute(0, 3, 1, 2),  # B 3 H W
            "mask_uint8": _stack([s.mask for s in samples])[:, None],  # B 1 H W
            "elements_uint8": _stack([s.elements for s in samples])[:, None],
            "prompt": [sample.prompt for sample in samples],
            "original_size": torch.tensor([sample.meta["original_size"] for sample in samples]),
            "crop_top_left": torch.tensor([sample.meta["crop_top_left"] for sample in samples]),
            "truth": [sample.meta["truth"] for sample in samples],
            "replaced": len(batch.damage),
            "damage": batch.damage,
        }


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images))


def to_device_batch(
    batch: HostBatch,
    device: torch.device | str,
    *,
    exposure_stops: float,
    tint: float,
    seed: int,
    train: bool,
) -> DeviceBatch:
    """The batch on the device, as floats, with its hint.

    In training the foreground of the hint, never the scene, is put under another light, within
    +-`exposure_stops` and +-`tint` as `jitter_foreground` says: a function of (seed, source slot).
    """
    counter = batch["counter"].to(device, non_blocking=True)
    scene_uint8 = batch["scene_uint8"].to(device, non_blocking=True)
    mask_uint8 = batch["mask_uint8"].to(device, non_blocking=True)
    rgb = scene_uint8.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    mask = mask_uint8.to(torch.float32).div_(255)
    foreground = rgb
    if train:
        uniforms = uniform(seed, counter, Stream.jitter, (JITTER_UNIFORMS,))
        foreground = jitter_foreground(
            rgb, mask, uniforms, exposure_stops=exposure_stops, tint=tint
        )
    return {
        "scene": rgb * 2 - 1,
        "mask": mask,
        "hint": make_hint(foreground, mask),
        "prompt": batch["prompt"],
        "key": batch["key"],
        "counter": counter,
        "original_size": batch["original_size"].to(device, non_blocking=True),
        "crop_top_left": batch["crop_top_left"].to(device, non_blocking=True),
        "truth": batch["truth"],
    }
