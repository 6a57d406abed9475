"""Which instances of an image become its composited foreground, and where the crop lies.

Instances that touch form a *group*; a group is taken whole or not at all, so that no selected
element is occluded by something that stays in the background. An instance below the minimum area
is a foreground only as part of a group that is not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_prep.boxes import Window
from data_prep.framing import Framing
from data_prep.instances import Group, Instance, contact_distance, touch

TRUNCATED = "group: truncated at the image border"
TOUCHES_CROWD = "group: touches a crowd"
SAME_CROWD = "group: a crowd of the same category is in the image"
TOO_SMALL = "group: under the minimum area"
TOO_LARGE = "group: over the maximum area"
TOO_LARGE_TOGETHER = "group: over the maximum area together with others"
UNCROPPABLE = "group: does not fit into the crop"

BORDER_SHARE = 0.0175  # of the short side: annotators end a cut-off object short of the border


@dataclass(frozen=True)
class Choice:
    """The groups of a foreground, and where the crop may lie: everywhere in there all are whole."""

    framing: Framing
    groups: list[Group]
    window: Window
    rejected: Counter[str]  # groups by reason


def border_distance(height: int, width: int) -> int:
    """How many pixels to the image's border count as truncated by it: 1 at 64, 8 at 480."""
    return max(1, round(min(height, width) * BORDER_SHARE))


def choose_groups(
    groups: Sequence[Group],
    crowds: Sequence[Instance],
    framings: Sequence[Framing],
    *,
    area_shares: tuple[float, float],
    random: np.random.Generator,
) -> Choice:
    """What to select of an image, and in which of the framings, the nearest first.

    Every group that passes the filters is taken, in random order, as long as the total area and the
    crop allow it. The least and the largest area share are of the crop's area. Farther framings are
    tried until one leaves out no group for want of room; the one that takes most groups counts.
    """
    rejected: Counter[str] = Counter()
    complete: list[Group] = []
    for index in random.permutation(len(groups)):
        if reason := _incomplete(groups[index], crowds, framings[0]):
            rejected[reason] += 1
        else:
            complete.append(groups[index])
    choices: list[Choice] = []
    for framing in framings:
        choices.append(_choose_in(framing, complete, *area_shares))
        if not choices[-1].rejected[UNCROPPABLE]:
            break
    best = max(choices, key=lambda choice: len(choice.groups))
    return replace(best, rejected=best.rejected + rejected)


def _choose_in(
    framing: Framing, groups: Sequence[Group], least_share: float, largest_share: float
) -> Choice:
    rejected: Counter[str] = Counter()
    chosen: list[Group] = []
    window = framing.window()
    total = 0.0
    for group in groups:
        share = group.area / framing.crop_area
        narrowed = window.keeping(framing.scaled(group.box))
        if share < least_share:
            rejected[TOO_SMALL] += 1
        elif share > largest_share:
            rejected[TOO_LARGE] += 1
        elif total + share > largest_share:
            rejected[TOO_LARGE_TOGETHER] += 1
        elif narrowed is None:
            rejected[UNCROPPABLE] += 1
        else:
            chosen.append(group)
            window = narrowed
            total += share
    return Choice(framing, chosen, window, rejected)


def _incomplete(group: Group, crowds: Sequence[Instance], framing: Framing) -> str | None:
    """Why the group is not the whole of what it shows, or None."""
    height, width = framing.height, framing.width
    if group.box.nearest_edge(height, width) < border_distance(height, width):
        return TRUNCATED
    distance = contact_distance(height, width)
    if any(touch(instance, crowd, distance) for instance in group.instances for crowd in crowds):
        return TOUCHES_CROWD
    categories = {instance.annotation.category for instance in group.instances}
    return SAME_CROWD if any(crowd.annotation.category in categories for crowd in crowds) else None
