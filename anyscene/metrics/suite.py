"""All metrics of generated scenes behind one object, in training as in evaluation."""

import math
import warnings

import torch
from torch import Tensor, nn

from anyscene.metrics.boundary import BoundaryF
from anyscene.metrics.fid import FrechetDistance
from anyscene.metrics.fidelity import LayoutMetrics, MaskedPsnr
from anyscene.metrics.judge import Judge
from anyscene.metrics.per_image import PerImageMetric
from anyscene.metrics.prompt import PromptAccuracy
from anyscene.metrics.seam import SeamMetrics
from anyscene.metrics.shadow import ShadowCorrelation
from anyscene.metrics.truth import Truth, labels_of


class SceneMetrics(nn.Module):
    """Metrics of generated scenes against their real ones; equal on any split over ranks.

    Names of the results, each a mean over the images that have the value:

    `psnr_in_mask`, `psnr_in_mask_blended` in dB: `MaskedPsnr`, before and after blending;
    `mask_iou`, `outside_share`, `growth`, `lost`: `LayoutMetrics` of the generated images;
    `boundary_f`: `BoundaryF` of them; `seam`, `colour_shift`: `SeamMetrics` of the blended ones;
    `place_accuracy`, `direction_accuracy`, `tone_accuracy`, `light_accuracy`: `PromptAccuracy`;
    `shadow_correlation`, `shadow_factual`, `shadow_swapped`, `shadow_skipped`: `ShadowCorrelation`;
    `fid_small`: `FrechetDistance` of the judge's own features, comparable with nothing but itself
    at the same number of images; `images`: how many were seen.

    Keep it out of a LightningModule's attributes (in a callback): it holds the judge's weights.
    """

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge
        self.psnr = MaskedPsnr()
        self.psnr_blended = MaskedPsnr("psnr_in_mask_blended")
        self.layout = LayoutMetrics()
        self.boundary = BoundaryF()
        self.seam = SeamMetrics()
        self.prompt = PromptAccuracy()
        self.shadow = ShadowCorrelation()
        self.fid = FrechetDistance(judge.segmenter.feature_count)

    @torch.no_grad()
    def update(
        self,
        generated: Tensor,
        blended: Tensor,
        scene: Tensor,
        alpha: Tensor,
        truths: list[Truth | None],
    ) -> None:
        """Add a batch. Scenes without truth count in the metrics that need none.

        generated, blended (the same after blending) and scene (the real one): B 3 H W in [0, 1],
        sides divisible by 8. alpha: B 1 H W in [0, 1]. All on this
        object's device.
        """
        generated, blended, scene = (images.float() for images in (generated, blended, scene))
        alpha = alpha.float()
        asked = [None if truth is None else labels_of(truth) for truth in truths]
        segmenter = self.judge.segmenter
        with torch.autocast(generated.device.type, enabled=False):
            self.psnr.update(generated, scene, alpha)
            self.psnr_blended.update(blended, scene, alpha)
            found = segmenter(generated, alpha)
            self.layout.update(found, alpha)
            self.boundary.update(found, alpha)
            self.seam.update(blended, scene, alpha)
            self.prompt.update(self.judge.class_means(generated), asked)
            self.shadow.update(generated, alpha, truths)
            self.fid.update(segmenter.features(generated), segmenter.features(scene))

    def compute(self) -> dict[str, float]:
        """The results by name, without those that no image has. A collective of all ranks."""
        results: dict[str, float] = {}
        with warnings.catch_warnings():  # a rank may have no image at all
            warnings.filterwarnings("ignore", message="The ``compute`` method")
            for metric in self._per_image_metrics():
                results |= {name: float(value) for name, value in metric.compute().items()}
            results["fid_small"] = float(self.fid.compute())
        results = {name: value for name, value in results.items() if not math.isnan(value)}
        return results | {"images": float(len(self.per_image()["psnr_in_mask"]))}

    def per_image(self) -> dict[str, list[float]]:
        """The value of each image of all ranks by name, NaN where it has none. A collective.

        All lists have the same order and length: rank by rank, in the order of the updates.
        """
        columns: dict[str, list[float]] = {}
        for metric in self._per_image_metrics():
            columns |= {name: values.tolist() for name, values in metric.per_image().items()}
        return columns

    def reset(self) -> None:
        """Forget all images."""
        for metric in (*self._per_image_metrics(), self.fid):
            metric.reset()

    def _per_image_metrics(self) -> tuple[PerImageMetric, ...]:
        placed = self.layout, self.boundary, self.seam
        return self.psnr, self.psnr_blended, *placed, self.prompt, self.shadow
