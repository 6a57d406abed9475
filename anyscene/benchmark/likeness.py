"""Likeness to a subject, wherever a method puts it: the image against the subject's photos."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.subject_set import read_photo
from anyscene.config import MetricsConfig
from anyscene.metrics.catalogue import Better, MetricInfo
from anyscene.metrics.features import FeatureExtractor
from anyscene.metrics.networks import Missing, Networks
from anyscene.metrics.preprocess import as_saved

LIKENESS = {
    "subject_dino_i": MetricInfo("DINO-I of the subject", Better.higher),
    "subject_clip_i": MetricInfo("CLIP-I of the subject", Better.higher),
}
"""Metrics of subject sets alone."""


class Likeness:
    """Mean cosine of the features of an image and of its subject's photos, of several subjects the
    mean of theirs (Ruiz et al. 2023, section 4.2: DINO and CLIP-I between whole images)."""

    def __init__(self, benchmark: Benchmark, config: MetricsConfig, device: str) -> None:
        self.scenes, self.device = benchmark.scenes, device
        self.missing: dict[str, str] = {}
        self.extractors: dict[str, FeatureExtractor] = {}
        networks = Networks(config)
        loaders = {"subject_dino_i": networks.dino, "subject_clip_i": lambda: networks.clip("clip")}
        for name, load in loaders.items():
            try:
                self.extractors[name] = load().to(device)
            except Missing as why:
                self.missing[name] = str(why)
        self.photos = {  # by metric and subject, the photos' unit features, n D
            (metric, name): torch.cat([self._features(e, _photo(path)) for path in paths])
            for metric, e in self.extractors.items()
            for name, own in benchmark.subjects.items()
            for paths in [[benchmark.folder / photo for photo in own["photos"]]]
        }
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        shape = (len(self.scenes),)
        self.values = {name: np.full(shape, np.nan) for name in self.extractors}

    def update(self, numbers: Sequence[int], images: Tensor) -> None:
        """Images u8 B 3 H W of the scenes of these numbers."""
        for metric, extractor in self.extractors.items():
            features = self._features(extractor, images)
            for number, own in zip(numbers, features, strict=True):
                subjects = self.scenes[number].get("subjects", [])
                cosines = [(self.photos[metric, s["name"]] @ own).mean() for s in subjects]
                self.values[metric][number] = float(torch.stack(cosines).mean())

    def _features(self, extractor: FeatureExtractor, images: Tensor) -> Tensor:
        """Unit features B D float64, of images u8 B 3 H W."""
        return F.normalize(extractor(as_saved(images.to(self.device))).double(), dim=1)


def _photo(path: Path) -> Tensor:
    """A photo, u8 1 3 H W."""
    pixels = np.array(read_photo(path)[0])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
