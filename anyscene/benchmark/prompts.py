"""The prompt of a scene whose elements come from several images."""

import re
from collections.abc import Sequence

from anyscene.data.sample import Element, Meta

DEMO_SOURCE = "demo"


def named(category: str) -> str:
    """`a dog`, `an orange`."""
    return f"{'an' if category[:1].lower() in 'aeiou' else 'a'} {category}"


def listed(nouns: Sequence[str]) -> str:
    """`a cat`, `a cat and a dog`, `a cat, a dog and a cow`."""
    *first, last = nouns
    return f"{', '.join(first)} and {last}" if first else last


def recombined_prompt(
    host: Meta, guests: Sequence[tuple[Meta, Element]], centres: Sequence[float]
) -> str:
    """The host's caption with the element of each guest named in it.

    A photo's caption gets them at its end. The procedural scenes' captions have a fixed form, the
    elements from left to right in front: `centres` are the guests' places there, in pixels.
    """
    caption = host["captions"][0]
    if host["source"] == DEMO_SOURCE:
        return _demo_prompt(host, [meta for meta, _ in guests], centres)
    nouns = [named(element["category"]) for _, element in guests]
    return f"{caption.rstrip(' .')}, with {listed(nouns)}"


def can_host(meta: Meta) -> bool:
    """Whether guests can be named in its caption: a procedural one must name all its elements."""
    return meta["source"] != DEMO_SOURCE or len(_demo_parts(meta)[0]) == len(meta["elements"])


def _demo_prompt(host: Meta, guests: Sequence[Meta], centres: Sequence[float]) -> str:
    nouns, scene = _demo_parts(host)
    boxes = [element["box_xywh"] for element in host["elements"]]
    own = sorted(box[0] + box[2] / 2 for box in boxes)
    theirs = [_demo_parts(guest)[0][0] for guest in guests]
    places = sorted(zip([*own, *centres], [*nouns, *theirs], strict=True))
    return f"{listed([noun for _, noun in places])} {scene}"


def _demo_parts(meta: Meta) -> tuple[list[str], str]:
    """The elements' nouns from left to right, and the rest of the caption."""
    from data_prep.demo_places import PLACES

    caption = meta["captions"][0]
    start = min(
        found for place in PLACES.values() if (found := caption.find(f" {place.phrase}, ")) >= 0
    )
    return re.split(r", | and ", caption[:start]), caption[start + 1 :]
