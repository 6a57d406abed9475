"""Bases in the published shapes with random weights, made on the device that trains."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from anyscene.models.base import Base
from anyscene.models.loading import fake_base

REPOSITORY = Path(__file__).resolve().parents[1]
UNKNOWN_SHA256 = 64 * "0"
"""Stands for a hash of random weights: to hash gigabytes of them would take longer than a row."""
DEMO_BASE = REPOSITORY / "anyscene/assets/demo_base"


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe(family: str, folder: Path) -> Path:
    """A folder with the configurations of a family's base; `small` is the shipped demo's."""
    if family == "small":
        return DEMO_BASE
    sys.path.append(str(REPOSITORY / "tests"))
    from published import published_base

    return published_base(folder, family)


def random_base(path: str, *_: Any) -> Base:
    """The base that a folder describes, with fresh weights, on the device."""
    with device():
        base = fake_base(path)
    base.sha256 = base.encoder_sha256 = lambda: UNKNOWN_SHA256
    return base


@contextmanager
def random_bases() -> Iterator[None]:
    """While it is open, training and caching make their base instead of reading one: gigabytes of
    random weights need not go through a disk."""
    with (
        patch("anyscene.module.load_base", random_base),
        patch("data_prep.cache.load_base", random_base),
    ):
        yield
