"""The figures of one run: a value for every image, and those of the whole set."""

import io
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from anyscene.benchmark.likeness import LIKENESS, Likeness
from anyscene.benchmark.runs import Run, made_file
from anyscene.benchmark.scenes import REAL, Benchmark, BenchmarkScene
from anyscene.config import MetricsConfig
from anyscene.manifest import GenerationLine
from anyscene.metrics.build import build_metric_set
from anyscene.metrics.catalogue import CATALOGUE, Better, Box, MetricInfo, ScoreBatch
from anyscene.metrics.features import FeatureExtractor
from anyscene.metrics.judge import Judge
from anyscene.metrics.make_reference import make_references
from anyscene.metrics.metric_set import MetricSet
from anyscene.metrics.networks import Missing, Networks
from anyscene.metrics.photo import PhotoMetrics
from anyscene.metrics.segmenter import Segmenter
from anyscene.metrics.suite import SceneMetrics

BATCH = 16

JUDGED = {
    "shadow_correlation": MetricInfo("Harmony: correlation with the true shadow", Better.higher),
    "mask_iou": MetricInfo("IoU of the found objects and the mask", Better.higher),
    "outside_share": MetricInfo("Object pixels outside the mask", Better.lower),
    "growth": MetricInfo("Growth over the mask", Better.lower),
    "lost": MetricInfo("Mask that is lost", Better.lower),
    "boundary_f": MetricInfo("Boundary F of the found objects", Better.higher),
    "colour_shift": MetricInfo("Colour shift of the elements", Better.lower, "CIELAB"),
    "place_accuracy": MetricInfo("Place as in the prompt", Better.higher),
    "light_accuracy": MetricInfo("Light as in the prompt", Better.higher),
}
"""Metrics of a method's final images: a judge's of procedural scenes, and as many of them as a SAM
finds in photos. Not the seam: that has no better end without the same scene before blending, and is
lowest where no element is."""

JUDGE_ALONE = ("shadow_correlation", "place_accuracy", "light_accuracy")
"""Of these a SAM knows nothing."""

INFO = JUDGED | LIKENESS | CATALOGUE
KERNEL = ("kid", "cmmd")
FRECHET = ("fid", "fd_dinov2")


@dataclass
class Figures:
    """What was measured. `values[metric]` is scenes x repeats, NaN where an image has none."""

    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sets: dict[str, list[float]] = field(default_factory=dict)  # a value a generation seed
    replicates: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # of KID, CMMD
    missing: dict[str, str] = field(default_factory=dict)  # metric: why
    details: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Meter:
    """What measures, the same for all runs."""

    benchmark: Benchmark
    metrics: MetricSet
    judge: SceneMetrics | PhotoMetrics
    likeness: Likeness | None  # of subject sets
    device: str

    @classmethod
    def build(
        cls,
        benchmark: Benchmark,
        config: MetricsConfig,
        work: Path,
        device: str,
        sam: str | None = None,
    ) -> "Meter":
        """From a configuration; the reference statistics of the real images go to `work`.

        Raises:
            InputError: weights or a judge that are named but cannot be used.
        """
        if config.reference is None:
            made = write_reference(benchmark, config, work, device)
            config = replace(config, reference=str(work) if made else None)
        if config.judge is not None:
            judge = SceneMetrics(Judge.from_pretrained(config.judge)).to(device)
        else:
            judge = PhotoMetrics(None if sam is None else load_segmenter(sam, device))
        likeness = Likeness(benchmark, config, device) if benchmark.subjects else None
        return cls(benchmark, build_metric_set(config, device), judge, likeness, device)

    def measure(self, run: Run) -> Figures:
        """All figures of a run."""
        figures = Figures()
        for repeat in range(run.repeats):
            lines = [own[repeat] for own in run.lines]
            self._measure_once(figures, run.name, lines, run.folder)
        return figures

    def measure_real(self) -> Figures | None:
        """The judge's figures of the real scenes themselves: what perfect images would get. None
        without a judge or SAM, or where a scene has no real image."""
        scenes = self.benchmark.scenes
        blind = isinstance(self.judge, PhotoMetrics) and self.judge.segmenter is None
        if blind or any(scene["real"] is None for scene in scenes):
            return None
        figures = Figures()
        self.judge.reset()
        parts = _parts([(scene["height"], scene["width"], False) for scene in scenes])
        for numbers in parts:
            part = [scenes[number] for number in numbers]
            real = torch.stack([self._file(scene, "real", "RGB") for scene in part]).float() / 255
            alpha = torch.stack([self._file(scene, "mask", "L") for scene in part]).float() / 255
            self._judge(real, real, alpha, part)
        self._keep_judged(figures, parts)
        figures.values.pop("colour_shift", None)  # which would be from the scene to itself
        return figures

    def _measure_once(
        self, figures: Figures, name: str, lines: Sequence[GenerationLine], folder: Path
    ) -> None:
        """Add one generation seed's images of all scenes."""
        self.metrics.reset()
        self.judge.reset()
        if self.likeness is not None:
            self.likeness.reset()
        parts = _parts([(line["height"], line["width"], line["canvas"] is None) for line in lines])
        for numbers in tqdm(parts, f"score {name}", unit="batch", disable=None):
            self._update([lines[n] for n in numbers], numbers, folder)
        results = self.metrics.compute(intervals=True)
        for metric, result in results.items():
            if result.value is None:
                figures.missing[metric] = result.reason or "no reason given"
            elif result.per_image is not None:
                _add_column(figures, metric, result.per_image)
            else:
                figures.sets.setdefault(metric, []).append(result.value)
            if result.replicates is not None:
                drawn = np.asarray(result.replicates)[None]
                before = figures.replicates.get(metric, np.empty((0, drawn.shape[1])))
                figures.replicates[metric] = np.concatenate([before, drawn])
            figures.details[metric] = result.details
        self._keep_judged(figures, parts)
        if self.likeness is not None:
            figures.missing |= self.likeness.missing
            for metric, column in self.likeness.values.items():
                _add_column(figures, metric, column)

    def _update(
        self, lines: Sequence[GenerationLine], numbers: Sequence[int], folder: Path
    ) -> None:
        scenes = [self.benchmark.scenes[n] for n in numbers]
        image, raw = (
            torch.stack([_image(made_file(folder, line, kind), "RGB") for line in lines])
            for kind in ("image", "image_raw")
        )
        canvas = None
        if lines[0]["canvas"] is not None:  # of all: see `_parts`
            canvases = [made_file(folder, line, "canvas") for line in lines]
            canvas = torch.stack([_image(data, "RGBA") for data in canvases])
        batch = ScoreBatch(
            numbers=list(numbers),
            image=image.to(self.device),
            raw=raw.to(self.device),
            prompts=[line["prompt"] for line in lines],
            foreground=None if canvas is None else canvas[:, :3].to(self.device),
            alpha=None if canvas is None else canvas[:, 3:].to(self.device),
            boxes=[
                boxes_at(scene, line["height"], line["width"])
                for scene, line in zip(scenes, lines, strict=True)
            ],
        )
        self.metrics.update(batch)
        if self.likeness is not None:
            self.likeness.update(numbers, image)
        if canvas is not None:
            alpha = canvas[:, 3:].float() / 255
            self._judge(image.float() / 255, canvas[:, :3].float() / 255, alpha, scenes)

    def _judge(
        self, image: Tensor, own: Tensor, alpha: Tensor, scenes: Sequence[BenchmarkScene]
    ) -> None:
        """Only the judge's own figures count; what stands for the real scene is not looked at."""
        shown = image.to(self.device)
        truths = [scene["truth"] for scene in scenes]
        self.judge.update(shown, shown, own.to(self.device), alpha.to(self.device), truths)

    def _keep_judged(self, figures: Figures, parts: Sequence[Sequence[int]]) -> None:
        """Add the judge's columns, in the scenes' order; it has them in that of the batches."""
        whole = all(scene["canvas"] is not None for scene in self.benchmark.scenes)
        if not whole:
            figures.missing |= dict.fromkeys(JUDGED, "scenes have no foreground")
            return
        columns = self.judge.per_image()
        place = np.argsort([number for part in parts for number in part])
        for metric in JUDGED:
            if metric not in columns:
                alone = metric in JUDGE_ALONE
                figures.missing[metric] = (
                    "metrics.judge is not given" if alone else "neither metrics.judge nor --sam"
                )
            elif all(math.isnan(value) for value in columns[metric]):
                figures.missing[metric] = "no scene's truth is known"
            else:
                _add_column(figures, metric, np.asarray(columns[metric])[place])

    def _file(self, scene: BenchmarkScene, kind: str, mode: str) -> Tensor:
        return _image((self.benchmark.folder / str(scene[kind])).read_bytes(), mode)


def load_segmenter(path: str, device: str) -> Segmenter:
    """The SAM of a folder or hub id on a device."""
    from anyscene.metrics.sam import SamSegmenter  # slow to import

    return SamSegmenter.from_pretrained(path).to(device)


def _add_column(figures: Figures, metric: str, column: Any) -> None:
    values = np.asarray(column, dtype=np.float64)[:, None]
    before = figures.values.get(metric)
    figures.values[metric] = values if before is None else np.hstack([before, values])


def _parts(sizes: Sequence[tuple[int, int, bool]]) -> list[list[int]]:
    """Numbers of images in batches of one size (height, width, whether there is no foreground), in
    rising order within a size."""
    by_size: dict[tuple[int, int, bool], list[int]] = {}
    for number, size in enumerate(sizes):
        by_size.setdefault(size, []).append(number)
    return [
        own[start : start + BATCH]
        for own in by_size.values()
        for start in range(0, len(own), BATCH)
    ]


def boxes_at(scene: BenchmarkScene, height: int, width: int) -> list[Box]:
    """The elements' boxes at another size than the canvas': left, top, right, bottom."""
    down, across = height / scene["height"], width / scene["width"]
    boxes = []
    for element in scene["elements"]:
        left, top, breadth, depth = element["box_xywh"]
        boxes.append(
            (
                math.floor(left * across),
                math.floor(top * down),
                min(width, math.ceil((left + breadth) * across)),
                min(height, math.ceil((top + depth) * down)),
            )
        )
    return boxes


def write_reference(benchmark: Benchmark, config: MetricsConfig, folder: Path, device: str) -> bool:
    """Statistics of the benchmark's real images, if it has any, of each network that is given;
    whether any was written."""
    if not (benchmark.folder / REAL).is_dir():
        return False
    networks = Networks(config)
    wanted: dict[str, Callable[[], FeatureExtractor]] = {
        "inception": networks.inception,
        "clip": lambda: networks.clip("cmmd_clip", "clip"),
        "dinov2": networks.dino,
    }
    extractors = {}
    for name, load in wanted.items():
        with suppress(Missing):
            extractors[name] = load().to(device)
    if extractors:
        make_references(benchmark.folder / REAL, extractors, folder, device)
    return bool(extractors)


def _image(content: bytes, mode: str) -> Tensor:
    """C H W u8."""
    with Image.open(io.BytesIO(content)) as file:
        pixels = np.array(file.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()
