"""The judge of procedural scenes: recognises place and light, and finds the elements."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anyscene.errors import InputError
from anyscene.metrics.segmenter import SmallSegmenter
from anyscene.metrics.truth import Labels

THUMBNAIL_SIDE = 8
JUDGE_NAME = "judge.json"
MEANS_NAME, LABELS_NAME = "class_means.safetensors", "class_means.json"


def thumbnail(images: Tensor) -> Tensor:
    """B 192: images B 3 H W averaged over an 8x8 grid. u8 is taken as [0, 255], float as [0, 1]."""
    values = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return F.adaptive_avg_pool2d(values, THUMBNAIL_SIDE).flatten(1)


class ClassMeans(nn.Module):
    """Recognises (place, direction, tone) by the nearest class mean of 8x8 thumbnails in RGB.

    A class is a place under a light, and its mean is the place's part plus the light's part, fitted
    together. So a place under a light that no image of the fit had is recognised too: plain
    means of the classes that were seen must get those wrong.
    """

    def __init__(self, labels: list[Labels], means: Tensor) -> None:
        super().__init__()
        self.labels = labels
        self.means: Tensor
        self.register_buffer("means", means)  # classes x 192

    @classmethod
    def fit(cls, images: Tensor, labels: list[Labels]) -> "ClassMeans":
        """From images N 3 H W (u8 or [0, 1]) and their labels, by least squares.

        The classes are all pairs of a place and a light (direction, tone) of the labels, sorted.
        """
        places = sorted({label.place for label in labels})
        lights = sorted({(label.direction, label.tone) for label in labels})
        design = torch.zeros(len(labels), len(places) + len(lights), dtype=torch.float64)
        for row, label in zip(design, labels, strict=True):
            row[places.index(label.place)] = 1
            row[len(places) + lights.index((label.direction, label.tone))] = 1
        features = torch.cat([thumbnail(part) for part in images.split(256)]).double().cpu()
        parts = torch.linalg.pinv(design) @ features  # places and lights x 192
        means = parts[: len(places), None] + parts[None, len(places) :]
        classes = [Labels(place, *light) for place in places for light in lights]
        return cls(classes, means.flatten(0, 1).float())

    def forward(self, images: Tensor) -> list[Labels]:
        """The nearest class of each image B 3 H W (u8 or [0, 1])."""
        distances = torch.cdist(
            thumbnail(images), self.means, compute_mode="donot_use_mm_for_euclid_dist"
        )
        return [self.labels[index] for index in distances.argmin(dim=1).tolist()]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `class_means.safetensors` and `class_means.json` into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"means": self.means.cpu().contiguous()}, folder / MEANS_NAME)
        rows = {"thumbnail_side": THUMBNAIL_SIDE, "labels": [list(label) for label in self.labels]}
        (folder / LABELS_NAME).write_text(json.dumps(rows, indent=1) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ClassMeans":
        """The class means of a folder."""
        folder = Path(folder)
        rows = json.loads((folder / LABELS_NAME).read_text())
        labels = [Labels(*row) for row in rows["labels"]]
        return cls(labels, load_file(folder / MEANS_NAME)["means"])


class Judge(nn.Module):
    """A classifier and a segmenter with the record of how well they judge real scenes.

    `record` is `judge.json`: `noise_floor` {metric: value on real held-out scenes} and
    `data_manifest_sha256` of the data that made it.
    """

    def __init__(
        self, class_means: ClassMeans, segmenter: SmallSegmenter, record: dict[str, Any]
    ) -> None:
        super().__init__()
        self.class_means = class_means
        self.segmenter = segmenter
        self.record = record

    @property
    def noise_floor(self) -> dict[str, float]:
        """Each metric's value on real held-out scenes: what a perfect generator would get."""
        return self.record["noise_floor"]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the judge: `judge.json`, the class means and `segmenter/`."""
        folder = Path(folder)
        self.class_means.save_pretrained(folder)
        self.segmenter.save_pretrained(folder / "segmenter")
        text = json.dumps(self.record, indent=1, sort_keys=True)
        (folder / JUDGE_NAME).write_text(text + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Judge":
        """The judge of a folder, in evaluation mode. Raises `InputError` if a file is missing."""
        folder = Path(folder)
        for name in (JUDGE_NAME, MEANS_NAME, LABELS_NAME):
            if not (folder / name).is_file():
                raise InputError(
                    f"no judge in {str(folder)!r}: {name} is missing; "
                    "make one with `anyscene prepare base`"
                )
        record = json.loads((folder / JUDGE_NAME).read_text())
        segmenter = SmallSegmenter.from_pretrained(folder / "segmenter")
        return cls(ClassMeans.from_pretrained(folder), segmenter, record).eval()
