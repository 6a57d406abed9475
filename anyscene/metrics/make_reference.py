"""Reference statistics of a folder of real images."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from anyscene.errors import InputError
from anyscene.files import sha256_of
from anyscene.metrics.features import FeatureExtractor
from anyscene.metrics.preprocess import as_saved
from anyscene.metrics.reference import Reference

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def make_references(
    folder: Path, extractors: dict[str, FeatureExtractor], out: Path, device: str = "cpu"
) -> int:
    """Write `out`/NAME.* for each extractor from all images under a folder; returns their number.

    The record's `data_sha256` is of the sorted list of their names and checksums.

    Raises:
        InputError: no such folder, fewer than two images, or one that cannot be read.
    """
    files = list_images(folder)
    rows: dict[str, list[Tensor]] = {name: [] for name in extractors}
    sizes = set()
    with tqdm(total=len(files), desc="reference", unit="image", disable=None) as bar:
        for images in _batches(files):
            sizes.add((images.shape[2], images.shape[3]))
            shown = as_saved(images.to(device))
            for name, extractor in extractors.items():
                rows[name].append(extractor(shown).cpu())
            bar.update(len(images))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
    size = sizes.pop() if len(sizes) == 1 else None
    for name, extractor in extractors.items():
        features = torch.cat(rows[name])
        reference = Reference.of_features(extractor.record, features, size, digest.hexdigest())
        reference.save(out, name)
    return len(files)


def list_images(folder: Path) -> list[Path]:
    """The image files under a folder, sorted. Raises `InputError` for fewer than two."""
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if len(files) < 2:
        raise InputError(f"{str(folder)!r} has {len(files)} images; 2 are the least")
    return files


def _batches(files: list[Path], most: int = 64) -> Iterator[Tensor]:
    """Images u8 B 3 H W, as many of one size as come one after the other."""
    batch: list[Tensor] = []
    for file in files:
        image = _read(file)
        if batch and (batch[0].shape != image.shape or len(batch) == most):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    yield torch.stack(batch)


def _read(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
