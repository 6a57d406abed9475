"""A metric set from a configuration: a metric without what it needs has a reason instead."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from anyscene.config import MetricsConfig
from anyscene.errors import InputError, nearest
from anyscene.metrics.aesthetic import AestheticScore
from anyscene.metrics.catalogue import CATALOGUE
from anyscene.metrics.clip_score import ClipScore
from anyscene.metrics.elements import ElementSimilarity, ForegroundLpips, Lpips, MaskedSsim
from anyscene.metrics.features import FeatureExtractor
from anyscene.metrics.fid import FrechetDistance
from anyscene.metrics.fidelity import MaskedPsnr
from anyscene.metrics.judge import Judge
from anyscene.metrics.kernel_distance import CMMD, KID, Discrepancy
from anyscene.metrics.kid import KernelDistance
from anyscene.metrics.metric_set import Entry, MetricSet, Views
from anyscene.metrics.networks import Missing, Networks
from anyscene.metrics.reference import Reference
from anyscene.metrics.suite import SceneMetrics

STAGES = {"": "raw", "_blended": "image"}
"""The end of a fidelity metric's name, and the image that it is of."""

FOREGROUND = ("foreground", "alpha")


def build_metric_set(
    config: MetricsConfig,
    device: torch.device | str = "cpu",
    names: Iterable[str] | None = None,
    judge: Judge | None = None,
) -> MetricSet:
    """The metrics of `names` (all by default) that this configuration has what they need for.

    Raises:
        InputError: an unknown name; a file or network that is named but is not what it should be;
            reference statistics that another network made.
    """
    wanted = list(CATALOGUE if names is None else names)
    for name in wanted:
        if name not in CATALOGUE:
            raise InputError(f"no metric is called {name!r}{nearest(name, CATALOGUE)}")
    builder = _Builder(config, Networks(config))
    for name in wanted:
        builder.add(name)
    suite = None if judge is None else SceneMetrics(judge)
    loaded = builder.networks.loaded
    return MetricSet(builder.entries, loaded, builder.missing, suite).to(device)


@dataclass
class _Builder:
    """Collects entries, and reasons where there is none."""

    config: MetricsConfig
    networks: Networks
    entries: list[Entry] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str) -> None:
        """One metric of the catalogue."""
        if any(name in entry.names for entry in self.entries):
            return
        try:
            self.entries.append(self._entry(name))
        except Missing as why:
            self.missing[name] = str(why)

    def _entry(self, name: str) -> Entry:
        base = name.removesuffix("_blended")
        stage = STAGES[name[len(base) :]]
        match base:
            case "fid":
                return self._frechet(name, self.networks.inception(), "inception")
            case "kid":
                return self._kernel(name, self.networks.inception(), KID, "inception")
            case "cmmd":
                return self._kernel(name, self.networks.clip("cmmd_clip", "clip"), CMMD, "clip")
            case "fd_dinov2":
                dino = self.networks.dino()
                if not dino.is_v2:
                    raise Missing("metrics.dino is the first DINO, not DINOv2")
                return self._frechet(name, dino, "dinov2")
            case "clip_score" | "clip_cosine":
                return self._clip_score()
            case "aesthetic_v1" | "aesthetic_v2":
                return self._aesthetic(name)
            case "clip_i":
                return _similarity(name, self.networks.clip("clip"), stage)
            case "dino_i":
                return _similarity(name, self.networks.dino(), stage)
            case "psnr_in_mask":
                return _fidelity(MaskedPsnr(name), name, stage)
            case "ssim_in_mask":
                return _fidelity(MaskedSsim(name), name, stage)
            case "lpips":
                return _lpips(name, self.networks.lpips(), stage)
        raise AssertionError(f"{name} is in the catalogue, but nothing builds it")

    def _frechet(self, name: str, extractor: FeatureExtractor, file: str) -> Entry:
        reference = self._reference(extractor, file)
        gaussian = None if reference is None else reference.gaussian
        metric = FrechetDistance(extractor.record.width, gaussian)
        return _set_entry(name, metric, extractor, reference)

    def _kernel(
        self, name: str, extractor: FeatureExtractor, definition: Discrepancy, file: str
    ) -> Entry:
        reference = self._reference(extractor, file)
        features = None if reference is None else reference.features
        metric = KernelDistance(extractor.record.width, definition, features)
        return _set_entry(name, metric, extractor, reference)

    def _reference(self, extractor: FeatureExtractor, file: str) -> Reference | None:
        if self.config.reference is None:
            return None
        folder = Path(self.config.reference)
        if not (folder / f"{file}.json").is_file():
            raise Missing(f"metrics.reference={self.config.reference!r} has no {file}.json")
        reference = Reference.load(folder, file)
        reference.check(extractor.record, f"metrics.reference={self.config.reference!r}")
        return reference

    def _clip_score(self) -> Entry:
        clip, metric = self.networks.clip("clip"), ClipScore()

        def feed(views: Views) -> None:
            prompts = views.batch.prompts
            assert prompts is not None
            metric.update(views.features(clip, "image"), clip.texts(prompts))

        return Entry(metric, metric.names, ("prompts",), feed, _made_by(clip))

    def _aesthetic(self, name: str) -> Entry:
        head, clip = self.networks.aesthetic(name)
        metric = AestheticScore(name)

        def feed(views: Views) -> None:
            metric.update(head(views.features(clip, "image")))

        return Entry(metric, (name,), ("image",), feed, _made_by(clip))


def _set_entry(
    name: str,
    metric: FrechetDistance | KernelDistance,
    extractor: FeatureExtractor,
    reference: Reference | None,
) -> Entry:
    """A metric of all images against the real ones of the batches, or against a reference."""

    def feed(views: Views) -> None:
        real = views.real_features(extractor) if reference is None else None
        metric.update(views.features(extractor, "image"), real)

    details = _made_by(extractor)
    if reference is not None:
        details["reference_images"] = reference.images
        details["reference_data_sha256"] = reference.data_sha256
    needs = ("image", "real") if reference is None else ("image",)
    return Entry(metric, (name,), needs, feed, details, reference)


def _similarity(name: str, extractor: FeatureExtractor, stage: str) -> Entry:
    metric = ElementSimilarity(name)

    def feed(views: Views) -> None:
        generated, owners = views.elements(extractor, stage)
        given, _ = views.elements(extractor, "foreground")
        metric.update(generated, given, owners, len(views.batch.numbers))

    return Entry(metric, (name,), FOREGROUND, feed, _made_by(extractor))


def _fidelity(metric: MaskedPsnr | MaskedSsim, name: str, stage: str) -> Entry:
    def feed(views: Views) -> None:
        metric.update(views.images[stage], *[views.images[part] for part in FOREGROUND])

    return Entry(metric, (name,), FOREGROUND, feed)


def _lpips(name: str, network: Lpips, stage: str) -> Entry:
    metric = ForegroundLpips(name)

    def feed(views: Views) -> None:
        metric.update(network(views.images[stage], *[views.images[part] for part in FOREGROUND]))

    return Entry(metric, (name,), FOREGROUND, feed)


def _made_by(extractor: FeatureExtractor) -> dict[str, Any]:
    return {"network": extractor.record.name, "sha256": extractor.record.sha256}
