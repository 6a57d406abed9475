"""The metric set: one object for the training callback and for offline scoring."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from anyscene.metrics.bootstrap import bootstrap_interval, known_interval, percentile_interval
from anyscene.metrics.catalogue import CATALOGUE, MetricResult, ScoreBatch
from anyscene.metrics.elements import element_crops, mask_boxes
from anyscene.metrics.features import FeatureExtractor, exact_floats
from anyscene.metrics.fid import FrechetDistance
from anyscene.metrics.kid import KernelDistance
from anyscene.metrics.per_image import PerImageMetric
from anyscene.metrics.preprocess import as_saved
from anyscene.metrics.reference import Reference
from anyscene.metrics.suite import SceneMetrics

RESAMPLES = 1000


class Views:
    """A batch on the device, rounded as files are, and its features, each computed once."""

    def __init__(self, batch: ScoreBatch, device: torch.device | str) -> None:
        self.batch = batch
        shown = {name: getattr(batch, name) for name in ("image", "real", "foreground", "alpha")}
        shown["raw"] = batch.image if batch.raw is None else batch.raw
        self.images = {
            name: as_saved(images.to(device))
            for name, images in shown.items()
            if images is not None
        }
        self._features: dict[tuple[str, int], Tensor] = {}
        self._owners: dict[int, Tensor] = {}

    def unrounded(self, name: str) -> Tensor:
        """Images as they came, as floats: for the judge, whose figures repeat a sampling whose
        last bits may differ, which rounding would make larger."""
        images = getattr(self.batch, name)
        images = self.batch.image if images is None else images
        device = self.images[name].device
        return self.images[name] if images.dtype == torch.uint8 else images.to(device)

    def has(self, needs: tuple[str, ...]) -> bool:
        """Whether the batch came with all of these."""
        return all(n in self.images or getattr(self.batch, n, None) is not None for n in needs)

    def real_features(self, extractor: FeatureExtractor) -> Tensor | None:
        """Features of the real images, if there are any."""
        return self.features(extractor, "real") if "real" in self.images else None

    def features(self, extractor: FeatureExtractor, name: str) -> Tensor:
        """Features B D of `image`, `raw` or `real`."""
        key = (name, id(extractor))
        if key not in self._features:
            self._features[key] = extractor(self.images[name])
        return self._features[key]

    def elements(self, extractor: FeatureExtractor, name: str) -> tuple[Tensor, Tensor]:
        """Features n D of the elements' crops, and the image that each is in."""
        key = (f"elements of {name}", id(extractor))
        if key not in self._features:
            alpha = self.images["alpha"]
            boxes = mask_boxes(alpha) if self.batch.boxes is None else self.batch.boxes
            crops, owners = element_crops(self.images[name], alpha, boxes, extractor.side)
            empty = crops.new_empty(0, extractor.record.width)
            self._features[key] = extractor(crops) if len(crops) else empty
            self._owners[id(extractor)] = owners
        return self._features[key], self._owners[id(extractor)]


@dataclass(frozen=True)
class Entry:
    """A metric of the set: what it needs of a batch, and how a batch comes to it."""

    metric: Metric
    names: tuple[str, ...]
    needs: tuple[str, ...]
    feed: Callable[[Views], None]
    details: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None


class Numbers(PerImageMetric):
    """The number of each image, which orders the images of all ranks."""

    names = ("number",)

    def update(self, numbers: list[int]) -> None:
        """Numbers of B images."""
        self.keep(torch.tensor(numbers, dtype=torch.float64))


class MetricSet(nn.Module):
    """All metrics of generated images; `catalogue.py` says how it is used.

    Keep it out of a LightningModule's attributes (in a callback): it holds networks' weights.

    Args:
        entries: the metrics that can be computed.
        networks: what they share.
        missing: name of each metric that cannot be computed, and why.
        judge: metrics of procedural scenes on top, under their own names.
    """

    def __init__(
        self,
        entries: list[Entry],
        networks: list[nn.Module],
        missing: dict[str, str],
        judge: SceneMetrics | None = None,
    ) -> None:
        super().__init__()
        self.entries = entries
        self.missing = missing
        self.metrics = nn.ModuleList([entry.metric for entry in entries])
        self.networks = nn.ModuleList(networks)
        self.judge = judge
        self._numbers = Numbers()

    @torch.no_grad()
    def update(self, batch: ScoreBatch) -> None:
        """Add images. Raises `InputError` for a size that reference statistics are not of."""
        for entry in self.entries:
            if entry.reference is not None:
                where = f"the reference of {entry.names[0]}"
                height, width = batch.image.shape[-2:]
                entry.reference.check_size(height, width, where)
        device = self._numbers.device
        views = Views(batch, device)
        self._numbers.update(batch.numbers)
        with exact_floats(device.type):
            for entry in self.entries:
                if views.has(entry.needs) or not isinstance(entry.metric, PerImageMetric):
                    entry.feed(views)
                else:  # every metric has a row for every image
                    missing = torch.full((len(batch.numbers),), torch.nan)
                    entry.metric.keep(*[missing] * len(entry.names))
            if self.judge is not None and views.has(("real", "alpha")):
                raw, image = views.unrounded("raw"), views.unrounded("image")
                truths: list[Any] = batch.truths or [None] * len(batch.numbers)
                self.judge.update(
                    raw, image, views.unrounded("real"), views.images["alpha"], truths
                )

    def numbers(self) -> list[int]:
        """The numbers of all ranks' images, sorted. A collective."""
        return sorted(int(number) for number in self._numbers.per_image()["number"].tolist())

    def compute(
        self, *, intervals: bool = False, resamples: int = RESAMPLES, seed: int = 0
    ) -> dict[str, MetricResult]:
        """Every metric by name: a value, or why there is none. A collective of all ranks.

        `intervals` adds 95 % bootstrap intervals over images, and the replicates of KID and CMMD.
        FID and FD-DINOv2 get none: a bootstrapped one lies above its own point estimate.

        Raises ValueError where two images have the same number.
        """
        numbers = self._numbers.per_image()["number"]
        order = numbers.argsort()
        if len(numbers.unique()) < len(numbers):
            raise ValueError("two images have the same number: figures would count one twice")
        draws = (resamples, seed) if intervals else None
        results = {name: MetricResult(None, reason=why) for name, why in self.missing.items()}
        for entry in self.entries:
            match entry.metric:
                case PerImageMetric():
                    results |= _per_image(entry, order, draws)
                case KernelDistance() as metric:
                    results |= _kernel(entry, metric, order, draws)
                case FrechetDistance() as metric:
                    results |= _frechet(entry, metric, len(order))
        return {name: results[name] for name in CATALOGUE if name in results}

    def figures(self) -> dict[str, float]:
        """Names and values of what can be computed, with the judge's, and `images`: how many. A
        collective."""
        found = {name: result.value for name, result in self.compute().items()}
        known = {name: value for name, value in found.items() if value is not None}
        return known | self.judged() | {"images": float(len(self.numbers()))}

    def judged(self) -> dict[str, float]:
        """The judge's figures by name; none without a judge. A collective."""
        return {} if self.judge is None else self.judge.compute()

    def reset(self) -> None:
        """Forget all images."""
        for metric in (*self.metrics, self._numbers):
            assert isinstance(metric, Metric)
            metric.reset()
        if self.judge is not None:
            self.judge.reset()

    def release(self) -> None:
        """Forget all images and give the device's memory back: all is on the CPU afterwards."""
        self.reset()
        self.to("cpu")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


Draws = tuple[int, int] | None  # resamples and seed


def _per_image(entry: Entry, order: Tensor, draws: Draws) -> dict[str, MetricResult]:
    assert isinstance(entry.metric, PerImageMetric)
    results = {}
    for name, column in entry.metric.per_image().items():
        values = column[order.to(column.device)]
        known = values[~values.isnan()]
        if not len(known):
            results[name] = MetricResult(None, reason=_nothing(entry), details=entry.details)
            continue
        interval = None
        if draws is not None:
            found = bootstrap_interval(known.tolist(), seed=draws[1], resamples=draws[0])
            interval = known_interval(found)
        results[name] = MetricResult(
            float(known.mean()), len(known), interval, None, values.tolist(), None, entry.details
        )
    return results


def _kernel(
    entry: Entry, metric: KernelDistance, order: Tensor, draws: Draws
) -> dict[str, MetricResult]:
    name = entry.names[0]
    nothing = {name: MetricResult(None, reason=_nothing(entry), details=entry.details)}
    if len(order) < 2:  # on all ranks alike
        return nothing
    resamples, seed = draws or (0, 0)
    value, replicates = metric.with_replicates(order, resamples, seed)
    if value.isnan():
        return nothing
    interval = None if draws is None else known_interval(percentile_interval(replicates))
    drawn = None if draws is None else replicates.tolist()
    result = MetricResult(
        float(value), len(order), interval, replicates=drawn, details=entry.details
    )
    return {name: result}


def _frechet(entry: Entry, metric: FrechetDistance, images: int) -> dict[str, MetricResult]:
    with warnings.catch_warnings():  # a rank may have no image at all
        warnings.filterwarnings("ignore", message="The ``compute`` method")
        value = float(metric.compute())
    if value != value:  # NaN
        return {entry.names[0]: MetricResult(None, reason=_nothing(entry), details=entry.details)}
    return {entry.names[0]: MetricResult(value, images, details=entry.details)}


def _nothing(entry: Entry) -> str:
    if isinstance(entry.metric, PerImageMetric):
        return f"no image came with {' and '.join(entry.needs)}"
    return f"fewer than two images with {' and '.join(entry.needs)}"
