"""Does a scene show the place and the light that its prompt names?"""

import torch

from anyscene.metrics.per_image import PerImageMetric
from anyscene.metrics.truth import Labels


class PromptAccuracy(PerImageMetric):
    """Share of images recognised as their prompt says; light is direction and tone together."""

    names = ("place_accuracy", "direction_accuracy", "tone_accuracy", "light_accuracy")

    def update(self, recognised: list[Labels], asked: list[Labels | None]) -> None:
        """What a classifier sees in each image, and what its prompt says (None: not known)."""
        rows = [_row(seen, label) for seen, label in zip(recognised, asked, strict=True)]
        self.keep(*torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self.names)).T)


def _row(seen: Labels, label: Labels | None) -> list[float]:
    if label is None:
        return [torch.nan] * len(PromptAccuracy.names)
    direction, tone = seen.direction == label.direction, seen.tone == label.tone
    return [float(seen.place == label.place), float(direction), float(tone), direction and tone]
