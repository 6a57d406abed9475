"""Randomness as a function of (seed, source slot, stream), whatever the workers, ranks or batch.

Values are made by a counter-based generator: the mixing function of SplitMix64 (Steele, Lea and
Flood 2014, "Fast splittable pseudorandom number generators", with the constants of its variant
13) applied to a key and a position. The same integers come out on every device.
"""

import math
from enum import IntEnum

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Stream(IntEnum):
    """Independent sequences of the same source slot. Values are part of a run's identity."""

    noise = 1
    timestep = 2
    prompt_dropout = 3
    first_stage = 4
    jitter = 5
    canvas = 6
    mask_jitter = 7
    flip = 8
    offset = 9
    foreground_dropout = 10


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) right shift of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def _bits(seed: int, counter: Tensor, stream: int, count: int) -> Tensor:
    """B count of int64 random bits for the slots in `counter` (B int64)."""
    start = torch.tensor([seed, stream], dtype=torch.int64)
    shared = _mix(_mix(start[0] + _GOLDEN) + start[1] * _GOLDEN)  # on the CPU: no copy to wait for
    key = _mix(shared + counter * _GOLDEN)
    position = torch.arange(1, count + 1, dtype=torch.int64, device=counter.device)
    return _mix(key[:, None] + position[None] * _GOLDEN)


def uniform(seed: int, counter: Tensor, stream: Stream, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float32 in [0, 1).

    Args:
        seed: the run's seed.
        counter: B int64, the source slot of each sample.
        stream: which use the values are for.
        shape: values a sample.

    Returns:
        B *shape.
    """
    bits = _bits(seed, counter, int(stream), math.prod(shape))
    return (_shift_right(bits, 40).float() * 2.0**-24).reshape(len(counter), *shape)


def normal(seed: int, counter: Tensor, stream: Stream, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32, B *shape, by the Box-Muller transform. Arguments as in `uniform`."""
    count = math.prod(shape)
    bits = _bits(seed, counter, int(stream), count)
    radius = (-2 * torch.log1p(-_shift_right(bits, 40).float() * 2.0**-24)).sqrt()
    angle = (bits & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
    return (radius * torch.cos(angle)).reshape(len(counter), *shape)
