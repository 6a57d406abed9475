"""The figures that a report shows: what each is called, how it is scaled and rounded."""

import math
from dataclasses import dataclass

from anyscene.report_plots import Limits

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Quantity:
    """How a figure is called, scaled and rounded."""

    name: str
    label: str
    better: str = ""  # an arrow to where it is better
    factor: float = 1.0
    digits: int | None = None  # after the point; None: three significant ones
    limits: Limits = (None, None)  # of its axis, after scaling

    def text(self, value: float | None) -> str:
        """The scaled value for people; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return MISSING
        scaled = value * self.factor
        text = f"{scaled:.3g}" if self.digits is None else f"{scaled:.{self.digits}f}"
        return text.replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


COLUMNS = (
    Quantity("psnr_in_mask", "PSNR in mask, dB", "↑", digits=1),
    Quantity("mask_iou", "Mask IoU", "↑", digits=2, limits=(0, 1)),
    Quantity("outside_share", "Outside mask, %", "↓", factor=100, digits=1, limits=(0, None)),
    Quantity("shadow_correlation", "Shadow correlation", "↑", digits=2, limits=(0, 1)),
    Quantity("place_accuracy", "Place accuracy", "↑", digits=2, limits=(0, 1)),
    Quantity("light_accuracy", "Light accuracy", "↑", digits=2, limits=(0, 1)),
    Quantity("fid_small", "FID, small sample*", "↓", limits=(0, None)),
)
"""The key figures, in the order of the table and of the curves."""

OTHERS = (
    Quantity("psnr_in_mask_blended", "PSNR after blending, dB", "↑", digits=1),
    Quantity("growth", "Growth, % of the mask", "↓", factor=100, digits=1, limits=(0, None)),
    Quantity("lost", "Lost, % of the mask", "↓", factor=100, digits=1, limits=(0, None)),
    Quantity("boundary_f", "Boundary F", "↑", digits=2, limits=(0, 1)),
    Quantity("seam", "Seam after blending, stops", digits=2),
    Quantity("colour_shift", "Colour shift after blending", "↓", digits=1, limits=(0, None)),
    Quantity("direction_accuracy", "Light direction accuracy", "↑", digits=2, limits=(0, 1)),
    Quantity("tone_accuracy", "Light tone accuracy", "↑", digits=2, limits=(0, 1)),
    Quantity("shadow_factual", "Shadow correlation, side light", "↑", digits=2, limits=(0, 1)),
    Quantity("shadow_swapped", "With the mirrored shadow", "↓", digits=2, limits=(0, 1)),
    Quantity("shadow_skipped", "Shadow not measurable, %", factor=100, digits=1, limits=(0, None)),
    Quantity("images_per_second", "Images per second", "↑", digits=1, limits=(0, None)),
    Quantity("data_wait_seconds", "Data wait, ms a step", "↓", 1000, digits=1, limits=(0, None)),
    Quantity("mfu", "MFU, %", "↑", factor=100, digits=1, limits=(0, None)),
    Quantity("memory_gib", "Memory, GiB", "↓", digits=1, limits=(0, None)),
    Quantity("gradient_norm", "Norm of the gradient", limits=(0, None)),
    Quantity("learning_rate", "Learning rate", limits=(0, None)),
)
