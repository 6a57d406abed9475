"""Inception features for FID and KID: the TensorFlow network, ported to TorchScript.

The file is the one that StyleGAN (since ADA) and clean-fid use, a translation of the network of
Heusel et al. 2017. torchvision's Inception has other weights and gives other FIDs.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyscene.data.fetching import fetch, is_remote
from anyscene.errors import InputError
from anyscene.files import sha256_of
from anyscene.metrics.features import ExtractorRecord, FeatureExtractor
from anyscene.metrics.preprocess import resize_bicubic

INCEPTION_NAME = "inception-2015-12-05"
INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
    "inception-2015-12-05.pt"
)
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
SIDE = 299  # pixels


class InceptionFeatures(FeatureExtractor):
    """The 2048 numbers before the classifier, with clean-fid's resizing outside of the network."""

    def __init__(self, network: Any, sha256: str, micro_batch: int = 16) -> None:
        super().__init__(micro_batch)
        self.network = network
        self.side = SIDE
        with torch.no_grad():
            width = self.rows(torch.zeros(1, 3, SIDE, SIDE)).shape[1]
        preprocessing = f"bicubic, antialiased, to {SIDE}x{SIDE}, floats (clean-fid)"
        self.record = ExtractorRecord(INCEPTION_NAME, sha256, preprocessing, width)

    def prepare(self, images: Tensor) -> Tensor:
        return (resize_bicubic(images, SIDE, SIDE) * 255 - 128) / 128

    def rows(self, prepared: Tensor) -> Tensor:
        # `layers` is the network without its own, TensorFlow's, resizing.
        return self.network.layers(prepared).flatten(1)


def load_inception(
    location: str, sha256: str | None = None, micro_batch: int = 16, cache: Path | None = None
) -> InceptionFeatures:
    """The network of a TorchScript file here or at a URL, kept in `cache` (the user's by default).

    Raises:
        InputError: not found, another checksum than `sha256` (that of the published file), or not
            such a network.
    """
    wanted = sha256 or INCEPTION_SHA256
    path = _download(location, wanted, cache) if is_remote(location) else Path(location)
    if not path.is_file():
        raise InputError(
            f"metrics.inception={location!r} is no file here; fetch it once from {INCEPTION_URL}"
        )
    found = sha256_of(path)
    if found != wanted:
        raise InputError(
            f"metrics.inception={location!r} has the sha256 {found}, not {wanted}; fetch it from "
            f"{INCEPTION_URL}, or set metrics.inception_sha256 if another network is meant"
        )
    try:
        return InceptionFeatures(_load_script(path), found, micro_batch)
    except (RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[-200:]
        raise InputError(
            f"metrics.inception={location!r} is no TorchScript network with `layers` that take "
            f"3x{SIDE}x{SIDE}: {reason}"
        ) from None


def _load_script(path: Path) -> Any:
    with warnings.catch_warnings():  # no other form of this file is published
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*", category=DeprecationWarning)
        return torch.jit.load(path, map_location="cpu").eval()


def _download(url: str, sha256: str, cache: Path | None) -> Path:
    """The file of a URL, once it has its checksum; a whole one of before is used again."""
    folder = cache or Path.home() / ".cache" / "anyscene" / "metrics"
    folder.mkdir(parents=True, exist_ok=True)
    location, _, name = url.rpartition("/")
    path = folder / f"{sha256[:16]}-{name}"

    def check(part: Path) -> None:
        if (found := sha256_of(part)) != sha256:
            raise InputError(f"it has the sha256 {found}, not {sha256}")

    if not path.is_file():
        try:
            fetch(location, name, path, check)
        except FileNotFoundError:
            raise InputError(f"metrics.inception={url!r} is not there") from None
    return path
