"""Classifier-free guidance with two scales."""

from torch import Tensor


def combine(
    base: Tensor | None, foreground: Tensor, full: Tensor, s_foreground: float, s_text: float
) -> Tensor:
    """e0 + s_fg [e(0, f) - e0] + s_text [e(t, f) - e(0, f)], B C h w.

    The two-condition form of Brooks et al. 2023 (InstructPix2Pix, eq. 3) with the foreground in
    the place of the image.

    Args:
        base: e0, empty prompt, no foreground; None at `s_foreground = 1`, where it cancels.
        foreground: e(0, f), empty prompt with the foreground.
        full: e(t, f), prompt and foreground.
    """
    guided = foreground + s_text * (full - foreground)
    if base is None:
        return guided
    return guided + (s_foreground - 1) * (foreground - base)
