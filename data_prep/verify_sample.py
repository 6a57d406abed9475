"""Does a sample keep the contract of `anyscene.data.sample`? Every member is decoded."""

import json
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from anyscene.data.damage import check_description
from anyscene.data.sample import Element, Meta
from anyscene.errors import DamageError

COMMON = {"mask.png", "elements.png", "meta.json"}
LATENTS = "latents.safetensors"
DTYPES = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}  # the manifest's names, and safetensors'
Size = tuple[int, int]


class LatentForm(NamedTuple):
    """What the manifest says of cached latents."""

    shape: tuple[int, int, int]
    dtype: str


def check_sample(
    key: str, members: Mapping[str, bytes], bucket: str, latents: LatentForm | None
) -> list[str]:
    """The categories of a sample's elements. Raises `DamageError` unless it keeps the contract.

    `latents` is given for a cached sample.
    """
    picture = _picture(members, "foreground" if latents else "scene")
    required = COMMON | ({LATENTS} if latents else set())
    if missing := sorted(required - members.keys()):
        raise DamageError(f"{' and '.join(missing)} missing")
    if extra := sorted(members.keys() - required - {picture}):
        raise DamageError(f"unknown member {extra[0]}")
    try:
        size, elements = _check_meta(json.loads(members["meta.json"]), key, bucket)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"meta.json is damaged: {error!r}") from None
    _decode(members, picture, cv2.IMREAD_COLOR, (*size, 3))
    _check_masks(members, size, elements)
    if latents:
        _check_latents(members[LATENTS], latents)
    return [element["category"] for element in elements]


def _picture(members: Mapping[str, bytes], name: str) -> str:
    """The member that is the scene, or a cached sample's foreground."""
    found = [picture for picture in (f"{name}.png", f"{name}.jpg") if picture in members]
    if len(found) != 1:
        raise DamageError(f"two {name}s" if found else f"{name}.png or {name}.jpg missing")
    return found[0]


def _check_meta(meta: Meta, key: str, bucket: str) -> tuple[Size, list[Element]]:
    if missing := sorted(Meta.__required_keys__ - meta.keys()):
        raise DamageError(f"meta.json lacks {missing[0]!r}")
    if meta["key"] != key:
        raise DamageError(f"meta.json has the key {meta['key']!r}")
    height, width = meta["size"]
    if meta["bucket"] != bucket or f"{height}x{width}" != bucket:
        raise DamageError(f"size {height}x{width}, bucket {meta['bucket']} in a shard of {bucket}")
    check_description(meta)
    for element in meta["elements"]:
        if missing := sorted(Element.__required_keys__ - element.keys()):
            raise DamageError(f"an element in meta.json lacks {missing[0]!r}")
        for share in ("area_share", "mask_quality"):
            if not 0 <= element[share] <= 1:
                raise DamageError(f"an element in meta.json has {share} {element[share]}")
    return (height, width), meta["elements"]


def _check_masks(members: Mapping[str, bytes], size: Size, elements: list[Element]) -> None:
    mask = _decode(members, "mask.png", cv2.IMREAD_UNCHANGED, size)
    numbers = _decode(members, "elements.png", cv2.IMREAD_UNCHANGED, size)
    if mask.max() < 128:  # as the loader demands
        raise DamageError("mask.png has no foreground")
    found = np.unique(numbers[numbers > 0]).tolist()
    if found != list(range(1, len(elements) + 1)):
        raise DamageError(f"elements.png has {found}, meta.json {len(elements)} elements")
    if not mask[numbers > 0].all():
        raise DamageError("elements.png has an element where mask.png is 0")
    for number, element in enumerate(elements, start=1):
        box = cv2.boundingRect((numbers == number).astype(np.uint8))
        if list(box) != element["box_xywh"]:
            raise DamageError(
                f"element {number} has the box {list(box)} in elements.png, "
                f"{element['box_xywh']} in meta.json"
            )


def _check_latents(data: bytes, form: LatentForm) -> None:
    """Mean and deviation, as the manifest has them, finite, no deviation negative."""
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise DamageError(f"{LATENTS} cannot be read: {error}") from None
    if sorted(tensors) != ["mean", "std"]:
        raise DamageError(f"{LATENTS} has {sorted(tensors)}, expected mean and std")
    expected = DTYPES[form.dtype], form.shape
    for name, tensor in sorted(tensors.items()):
        found = tensor["dtype"], tuple(tensor["shape"])
        if found != expected:
            raise DamageError(f"{LATENTS} has a {name} of {found}, expected {expected}")
        values = _floats(tensor["data"], tensor["dtype"])
        if not np.isfinite(values).all():
            raise DamageError(f"{LATENTS} has a {name} that is not finite")
        if name == "std" and (values < 0).any():
            raise DamageError(f"{LATENTS} has a negative std")


def _floats(data: bytes, dtype: str) -> NDArray[np.floating]:
    if dtype == "BF16":  # the upper half of float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float16 if dtype == "F16" else np.float32)


def _decode(
    members: Mapping[str, bytes], name: str, flags: int, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    try:
        image = cv2.imdecode(np.frombuffer(members[name], np.uint8), flags)
    except cv2.error as error:
        raise DamageError(f"{name} cannot be decoded: {error.err}") from None
    if image is None:
        raise DamageError(f"{name} cannot be decoded")
    if image.shape != shape or image.dtype != np.uint8:
        raise DamageError(f"{name} is {image.dtype} {image.shape}, expected uint8 {shape}")
    return image.astype(np.uint8, copy=False)
