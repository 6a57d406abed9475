"""Statistics of a set of real images on disk, with what made them: a mismatch is refused.

A folder has two files for each network, `inception`, `clip` and `dinov2`: `NAME.safetensors` (mean
D and covariance D D float64, and the features N D float32 that kernels need) and `NAME.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from anyscene.errors import InputError
from anyscene.files import replace_file, sha256_of, write_json
from anyscene.metrics.features import ExtractorRecord
from anyscene.metrics.frechet import Gaussian

FORMAT = "anyscene-reference-1"
COMPARED = {"sha256": "weights", "preprocessing": "preparation of images", "width": "width"}


@dataclass(frozen=True)
class Reference:
    """Features of real images, and what made them."""

    extractor: ExtractorRecord
    images: int
    resolution: tuple[int, int] | None  # height and width of the images; None: of several sizes
    data_sha256: str | None  # of the manifest or list of the images
    gaussian: Gaussian
    features: Tensor

    @classmethod
    def of_features(
        cls,
        extractor: ExtractorRecord,
        features: Tensor,
        resolution: tuple[int, int] | None,
        data_sha256: str | None = None,
    ) -> "Reference":
        """From the features N D of all images. Raises `InputError` for fewer than two."""
        if len(features) < 2:
            raise InputError(f"reference statistics of {len(features)} images; 2 are the least")
        features = features.float().cpu()
        gaussian = Gaussian.of_features(features)
        return cls(extractor, len(features), resolution, data_sha256, gaussian, features)

    def save(self, folder: Path, name: str) -> None:
        """Write the two files, the JSON last: it has the checksum of the other one."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"features": self.features.contiguous(), "mean": self.gaussian.mean}
        if self.gaussian.covariance is not None:
            tensors["covariance"] = self.gaussian.covariance.contiguous()
        path = folder / f"{name}.safetensors"
        replace_file(path, lambda part: save_file(tensors, part))
        record = {
            "format": FORMAT,
            "extractor": self.extractor.as_dict(),
            "images": self.images,
            "resolution": self.resolution,
            "data_sha256": self.data_sha256,
            "sha256": sha256_of(path),
        }
        write_json(folder / f"{name}.json", record)

    @classmethod
    def load(cls, folder: Path, name: str) -> "Reference":
        """Raises `InputError` where a file is missing, damaged or of another format."""
        record = _read_record(folder / f"{name}.json")
        path = folder / f"{name}.safetensors"
        if not path.is_file() or sha256_of(path) != record["sha256"]:
            raise InputError(f"{path} is not the file that {name}.json was written with")
        try:
            tensors = load_file(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"{path} is no safetensors file: {error}") from None
        features, covariance = tensors["features"], tensors.get("covariance")
        if covariance is None:
            gaussian = Gaussian.of_features(features)
        else:
            gaussian = Gaussian(tensors["mean"], covariance)
        size = record["resolution"]
        return cls(
            ExtractorRecord(**record["extractor"]),
            record["images"],
            None if size is None else (size[0], size[1]),
            record["data_sha256"],
            gaussian,
            features,
        )

    def check(self, extractor: ExtractorRecord, where: str) -> None:
        """Raises `InputError` where another network or preparation made these statistics."""
        for name, words in COMPARED.items():
            own, other = getattr(self.extractor, name), getattr(extractor, name)
            if own != other:
                raise InputError(
                    f"{where} was made by {self.extractor.name} with the {words} {own!r}, and "
                    f"{extractor.name} has {other!r}; make it again with this network"
                )

    def check_size(self, height: int, width: int, where: str) -> None:
        """Raises `InputError` for generated images of another size than the real ones."""
        if self.resolution not in (None, (height, width)):
            assert self.resolution is not None
            raise InputError(
                f"{where} is of images of {self.resolution[0]}x{self.resolution[1]}, and the "
                f"generated ones are {height}x{width}; make it again at their size"
            )


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(
            f"no {path.name} in {str(path.parent)!r}; write it with `anyscene metrics reference`"
        )
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise InputError(f"{path} is no record of reference statistics ({FORMAT})")
    return record
