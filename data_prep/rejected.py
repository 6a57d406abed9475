"""What the `rejected` of a manifest counts by reason: what was left out, and masks that stayed.

Images, groups, elements and damaged samples were left out. An annotated mask that Segment Anything
did not improve is still there, and so is its element.
"""

from collections import Counter
from collections.abc import Mapping

DAMAGED = "damaged sample"  # the beginning of why a sample of the source was left out
KEPT = "refinement: "  # the beginning of why a mask stays as annotated


def left_out(rejected: Mapping[str, int]) -> Counter[str]:
    """Of the counts, those of what is not in the shards, with their whole reasons."""
    return Counter({why: n for why, n in rejected.items() if n and not why.startswith(KEPT)})


def images_left_out(rejected: Mapping[str, int]) -> int:
    """Of the counts, how many images gave no sample: these and the samples are the images read."""
    reasons = ("image: ", f"{DAMAGED}: ")
    return sum(n for why, n in rejected.items() if why.startswith(reasons))


def kept_masks(rejected: Mapping[str, int]) -> Counter[str]:
    """Of the counts, those of masks that stayed as annotated, by the reason alone."""
    return Counter(
        {why.removeprefix(KEPT): n for why, n in rejected.items() if n and why.startswith(KEPT)}
    )
