"""Every metric of generated images by its name, and what a metric set takes and gives.

The training callback and offline scoring use the same object, a `MetricSet` that
`anyscene.metrics.build.build_metric_set` makes:

    metrics = build_metric_set(config.metrics, device)        # MetricsConfig: paths of weights
    for batch in ...:                                          # any batch size, any rank
        metrics.update(ScoreBatch(numbers=[0, 1], image=images, prompts=prompts, ...))
    results = metrics.compute(intervals=True)                  # a collective of all ranks
    results["fid"].value, results["fid"].reason                # a value, or why there is none
    results["clip_score"].per_image                            # one value an image, in the order
    metrics.numbers()                                          # of these (sorted) numbers
    metrics.reset()

Every name of `CATALOGUE` is in the results (or those of `build_metric_set`'s `names`): with a
value, or with `value=None` and a `reason`, such as "metrics.inception is not given".
Nothing depends on batch size, on the order of the images or on the split over ranks (sums in
float64, networks at a fixed micro-batch); numbers must differ over all ranks.

FID-like metrics compare with the real images of the batches, or with reference statistics
(`reference.py`) where `metrics.reference` names a folder of them.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom excluded


class Better(Enum):
    """Which end of a metric's scale is the good one."""

    higher = "higher"
    lower = "lower"


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is, for tables and documentation."""

    title: str  # as a table's head has it
    better: Better
    unit: str = ""
    per_image: bool = True  # whether there is a value for every image


@dataclass(frozen=True)
class MetricResult:
    """A metric of a set of images: a value, or the reason why there is none."""

    value: float | None
    images: int = 0  # how many have the value
    interval: tuple[float, float] | None = None  # 95 %, bootstrap over images; None: not asked for
    reason: str | None = None  # "not computed: ..." in one line, without these words
    per_image: list[float] | None = None  # in the order of `MetricSet.numbers`; NaN: has none
    replicates: list[float] | None = None  # bootstrap values of a metric of sets, if asked for
    details: dict[str, Any] = field(default_factory=dict)  # weights' sha256, reference, counts

    def text(self, digits: int = 3) -> str:
        """For a table: the value, with its interval if there is one, or why there is none."""
        if self.value is None:
            return f"not computed: {self.reason}"
        value = f"{self.value:.{digits}f}"
        if self.interval is None:
            return value
        low, high = self.interval
        return f"{value} ({low:.{digits}f} to {high:.{digits}f})"


@dataclass(frozen=True)
class ScoreBatch:
    """Generated images of one size, and what they are compared with; B of each, or None.

    Images are uint8, or float in [0, 1] and then rounded as a PNG file of them is.
    """

    numbers: list[int]  # the place of each image in the whole list: no number twice
    image: Tensor  # B 3 H W, the method's image: after blending, if it blends
    raw: Tensor | None = None  # B 3 H W, before blending
    prompts: list[str] | None = None
    real: Tensor | None = None  # B 3 h w, real images of the same scenes
    foreground: Tensor | None = None  # B 3 H W, the elements' own pixels where alpha is 1
    alpha: Tensor | None = None  # B 1 H W, 1 (or 255) is foreground
    boxes: list[list[Box]] | None = None  # of each element; None: one box around the whole mask
    truths: list[dict[str, Any] | None] | None = None  # of procedural scenes


_FIDELITY = {
    "psnr_in_mask": MetricInfo("PSNR in the mask", Better.higher, "dB"),
    "ssim_in_mask": MetricInfo("SSIM in the mask", Better.higher),
    "dino_i": MetricInfo("DINO-I of the elements", Better.higher),
    "clip_i": MetricInfo("CLIP-I of the elements", Better.higher),
    "lpips": MetricInfo("LPIPS of the foreground", Better.lower),
}

CATALOGUE: dict[str, MetricInfo] = {
    "fid": MetricInfo("FID (Inception, clean-fid)", Better.lower, per_image=False),
    "kid": MetricInfo("KID x 1000 (Inception)", Better.lower, "1e-3", per_image=False),
    "cmmd": MetricInfo("CMMD (CLIP)", Better.lower, "1e-3", per_image=False),
    "fd_dinov2": MetricInfo("FD-DINOv2", Better.lower, per_image=False),
    "clip_score": MetricInfo("CLIP-Score, 100 max(cos, 0)", Better.higher),
    "clip_cosine": MetricInfo("CLIP-Score, cos", Better.higher),
    "aesthetic_v1": MetricInfo("LAION aesthetic V1 (linear)", Better.higher),
    "aesthetic_v2": MetricInfo("LAION aesthetic V2 (MLP)", Better.higher),
    **_FIDELITY,
    **{
        f"{name}_blended": MetricInfo(f"{info.title}, blended", info.better, info.unit)
        for name, info in _FIDELITY.items()
    },
}
"""The metrics of any image. Those of a judge (procedural scenes) come on top where one is given."""
