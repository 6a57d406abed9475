"""Canvases: an image's elements where they were, or together with elements of other images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anyscene.benchmark.scenes import SceneElement
from anyscene.benchmark.sources import Source
from anyscene.data.sample import Element
from data_prep.boxes import SOFT_REACH, Box

Pixels = NDArray[np.uint8]

MARGIN = 2  # pixels that elements of different images are apart
TRIES = 64  # places tried for an element
LARGEST_GUEST = 0.3  # of the canvas' area
MOST_COVERED = 0.6  # of the canvas' area, by all elements


@dataclass
class Canvas:
    """A composited foreground: colours H W 3 (blue first), alpha H W, element numbers H W."""

    colours: Pixels
    alpha: Pixels
    numbers: Pixels
    elements: list[SceneElement]

    @property
    def rgba(self) -> Pixels:
        """H W 4 as OpenCV has it, blue first; black where nothing is."""
        seen = self.colours * (self.alpha > 0)[..., None]
        return np.dstack([seen, self.alpha]).astype(np.uint8)


def original(source: Source) -> Canvas:
    """The image's own elements where they were."""
    elements = [_element(source, element) for element in source.meta["elements"]]
    return Canvas(source.scene.copy(), source.mask.copy(), source.numbers.copy(), elements)


def recombined(
    host: Source, guests: Sequence[Source], random: np.random.Generator, count: int
) -> tuple[Canvas, list[tuple[Source, Element]], list[float]]:
    """The host's elements, and one whole element each of `count` guests in free places.

    A guest keeps its size and its height over the lower border, where the ground is; it moves to
    the left or right. Returns the canvas, the guests that found a place with the element that was
    taken, and the x of these elements' centres in pixels.
    """
    canvas = original(host)
    placed, centres = [], []
    for guest in guests:
        element = isolated(guest)
        if element is None or len(placed) == count:
            continue
        x = _place(canvas, guest, element, random)
        if x is not None:
            placed.append((guest, element))
            centres.append(x)
    return canvas, placed, centres


def isolated(source: Source) -> Element | None:
    """The largest element that no other one touches and that may be a guest; None without any."""
    fitting = []
    for number, element in enumerate(source.meta["elements"], start=1):
        # numbers end at the hard edge: an own soft edge's reach, and one of the neighbour's
        around = _box(element).grown(2 * SOFT_REACH)
        around = around.intersection(Box(0, 0, *source.mask.shape))
        if around is None or element["area_share"] > LARGEST_GUEST:
            continue
        if set(np.unique(around.cut(source.numbers))) <= {0, number}:
            fitting.append(element)
    return max(fitting, key=lambda element: element["area_share"], default=None)


def _place(
    canvas: Canvas, guest: Source, element: Element, random: np.random.Generator
) -> float | None:
    """Paste the guest's element; returns its centre's x, or None where there is no room."""
    covered = (canvas.alpha >= 128).mean()
    if covered + element["area_share"] > MOST_COVERED:
        return None
    height, width = canvas.alpha.shape
    box = _box(element).grown(SOFT_REACH).intersection(Box(0, 0, height, width))
    assert box is not None
    inside = box.cut(guest.mask)
    breadth = box.right - box.left
    for left in random.integers(0, width - breadth, TRIES, endpoint=True):
        target = Box(box.top, int(left), box.bottom, int(left) + breadth)
        near = target.grown(MARGIN).intersection(Box(0, 0, height, width))
        assert near is not None
        if near.cut(canvas.alpha).any():
            continue
        number = len(canvas.elements) + 1
        target.cut(canvas.alpha)[:] = inside
        target.cut(canvas.colours)[:] = box.cut(guest.scene)
        target.cut(canvas.numbers)[:] = np.where(box.cut(guest.numbers) > 0, number, 0)
        own = _element(guest, element)
        own["box_xywh"][0] += int(left) - box.left
        canvas.elements.append(own)
        return own["box_xywh"][0] + own["box_xywh"][2] / 2
    return None


def _element(source: Source, element: Element) -> SceneElement:
    return SceneElement(
        category=element["category"],
        box_xywh=[int(value) for value in element["box_xywh"]],
        area_share=element["area_share"],
        image_id=source.meta["image_id"],
        annotation_id=element["annotation_id"],
    )


def _box(element: Element) -> Box:
    left, top, width, height = (int(value) for value in element["box_xywh"])
    return Box(top, left, top + height, left + width)
