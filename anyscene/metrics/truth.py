"""The ground truth of a procedural scene, as it comes in `Meta.truth`: labels and shadow maps."""

import base64
import binascii
import io
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from anyscene.errors import InputError

Truth = dict[str, Any]
OPPOSITE = {"left": "right", "right": "left"}


class Labels(NamedTuple):
    """What the prompt of a procedural scene says of place and light."""

    place: str
    direction: str  # where the light comes from: left, right or above
    tone: str  # warm or cool


def labels_of(truth: Truth) -> Labels:
    """The labels of a scene."""
    return Labels(truth["place"], truth["direction"], truth["tone"])


def swapped_truth(truth: Truth) -> Truth:
    """The truth of the same scene with its light mirrored from left to right or back.

    For scenes generated from a prompt whose light was swapped. Light from above stays.
    """
    return truth | {
        "direction": OPPOSITE.get(truth["direction"], truth["direction"]),
        "shadow": truth["shadow_swapped"],
        "shadow_swapped": truth["shadow"],
    }


def decode_map(text: str) -> Tensor:
    """A map H W float in [0, 1] from a base64 PNG of one u8 channel. Raises `InputError`."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.mode != "L":
                raise InputError(f"a truth map has the mode {image.mode}, not one u8 channel")
            return torch.from_numpy(np.array(image)).float() / 255
    except (OSError, binascii.Error) as error:
        raise InputError(f"a truth map is not a base64 PNG ({error}); prepare again") from None


def encode_map(values: Tensor) -> str:
    """The base64 PNG of a map H W in [0, 1], rounded to 1/255."""
    buffer = io.BytesIO()
    Image.fromarray((values.clamp(0, 1) * 255).round().byte().cpu().numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
