"""What is decided about a demo scene before it is painted: place, light, elements, captions.

Held-out combinations: each category is withheld in one colour (`WITHHELD_ELEMENTS`, 8 of 64
pairs, each colour once), and each place under one of its six lights (`WITHHELD_LIGHTS`, 8 of 48
pairs). Train has neither; every second scene of val has at least one of them. So a held-out
scene joins words that train shows in all their other combinations, only never together.

Where an element stands, and how it is painted, is drawn without regard to the light.
"""

from dataclasses import dataclass

import numpy as np

from anyscene.errors import InputError
from data_prep.demo_places import DIRECTIONS, PLACES
from data_prep.demo_sheet import Colour
from data_prep.demo_sprites import CATEGORIES, COLOURS

TONES: dict[str, Colour] = {"warm": (1.13, 0.99, 0.8), "cool": (0.85, 0.95, 1.13)}  # gains of RGB
LIGHTS = [(direction, tone) for direction in DIRECTIONS for tone in TONES]

WITHHELD_ELEMENTS = {
    (category, list(COLOURS)[(3 * number + 1) % len(COLOURS)])
    for number, category in enumerate(CATEGORIES)
}
WITHHELD_LIGHTS = {
    (place, *LIGHTS[(5 * number + 2) % len(LIGHTS)]) for number, place in enumerate(PLACES)
}

COUNT_CHANCES = (0.35, 0.4, 0.25)  # of one, two and three elements
HORIZON = (0.36, 0.46)
FIRST_GROUND = 0.2  # below the horizon: where the farthest element stands
NEAREST_BASE = 0.93
FAR_SCALE, NEAR_SCALE = 0.85, 1.15  # of an element's usual height
HEIGHT_JITTER = 0.08
COLOUR_JITTER = 0.06
SIDE_MARGIN = 0.03
BOX_COVER = 0.2  # share of an element's box that a nearer box may cover
SCENE_ATTEMPTS, LAYOUT_ATTEMPTS = 2000, 20


@dataclass(frozen=True)
class PlacedElement:
    """An element and where it stands; lengths are shares of the scene's size."""

    category: str
    colour: str
    rgb: Colour  # its own shade of the colour, before any light
    left: float
    base: float
    height: float
    mirrored: bool

    @property
    def right(self) -> float:
        """The right edge of its box."""
        return self.left + self.height * CATEGORIES[self.category].aspect

    @property
    def centre(self) -> float:
        """The middle between its left and right edges."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class ScenePlan:
    """All that a scene is painted from; `replace` a field to see it in another light."""

    place: str
    direction: str  # where the light comes from
    tone: str
    horizon: float  # share of the scene's height, from the top
    elements: tuple[PlacedElement, ...]  # from far to near
    texture_seed: int

    @property
    def held_out(self) -> bool:
        """Whether the scene has a combination that train never shows."""
        pairs = {(element.category, element.colour) for element in self.elements}
        light = (self.place, self.direction, self.tone)
        return light in WITHHELD_LIGHTS or bool(pairs & WITHHELD_ELEMENTS)

    def captions(self) -> list[str]:
        """Two captions of the same words, the elements from left to right."""
        *first, last = (
            f"{'an' if element.colour[0] in 'aeiou' else 'a'} {element.colour} {element.category}"
            for element in sorted(self.elements, key=lambda element: element.centre)
        )
        named = f"{', '.join(first)} and {last}" if first else last
        side = "above" if self.direction == "above" else f"the {self.direction}"
        phrase, light = PLACES[self.place].phrase, f"{self.tone} light from {side}"
        return [f"{named} {phrase}, {light}", f"{phrase}, {named}, {light}"]


def plan_scene(
    rng: np.random.Generator,
    *,
    held_out: bool | None = None,
    place: str | None = None,
    direction: str | None = None,
    tone: str | None = None,
    count: int | None = None,
) -> ScenePlan:
    """Draw a plan; what is given is kept. `count` is the number of elements, 1 to 3.

    `held_out` None allows every combination. Raises `InputError` when what is given cannot be had.
    """
    for _ in range(SCENE_ATTEMPTS):
        horizon = rng.uniform(*HORIZON)
        wanted = count or 1 + int(rng.choice(len(COUNT_CHANCES), p=COUNT_CHANCES))
        plan = ScenePlan(
            place=place or str(rng.choice(list(PLACES))),
            direction=direction or str(rng.choice(DIRECTIONS)),
            tone=tone or str(rng.choice(list(TONES))),
            horizon=horizon,
            elements=_draw_elements(rng, horizon, wanted),
            texture_seed=int(rng.integers(2**32)),
        )
        if len(plan.elements) == wanted and held_out in (None, plan.held_out):
            return plan
    raise InputError(f"no demo scene has {place=} {direction=} {tone=} {count=} {held_out=}")


def _draw_elements(
    rng: np.random.Generator, horizon: float, count: int
) -> tuple[PlacedElement, ...]:
    """Up to `count` elements of different categories and colours, from far to near."""
    categories = rng.permutation(list(CATEGORIES))[:count]
    colours = rng.permutation(list(COLOURS))[:count]
    placed: list[PlacedElement] = []
    for category, colour in zip(categories, colours, strict=True):
        for _ in range(LAYOUT_ATTEMPTS):
            element = _draw_element(rng, horizon, str(category), str(colour))
            if all(_cover(element, other) <= BOX_COVER for other in placed):
                placed.append(element)
                break
    return tuple(sorted(placed, key=lambda element: element.base))


def _draw_element(
    rng: np.random.Generator, horizon: float, category: str, colour: str
) -> PlacedElement:
    depth = rng.uniform()
    first = horizon + FIRST_GROUND
    scale = FAR_SCALE + (NEAR_SCALE - FAR_SCALE) * depth
    scale *= rng.uniform(1 - HEIGHT_JITTER, 1 + HEIGHT_JITTER)
    kind = CATEGORIES[category]
    height = kind.height * scale
    red, green, blue = np.asarray(COLOURS[colour]) * rng.uniform(
        1 - COLOUR_JITTER, 1 + COLOUR_JITTER, 3
    )
    return PlacedElement(
        category,
        colour,
        rgb=(float(red), float(green), float(blue)),
        left=rng.uniform(SIDE_MARGIN, 1 - SIDE_MARGIN - height * kind.aspect),
        base=first + (NEAREST_BASE - first) * depth,
        height=height,
        mirrored=bool(rng.uniform() < 0.5),
    )


def _cover(one: PlacedElement, other: PlacedElement) -> float:
    """Overlap of two elements' boxes, as a share of the smaller box."""
    across = min(one.right, other.right) - max(one.left, other.left)
    down = min(one.base, other.base) - max(one.base - one.height, other.base - other.height)
    areas = [(element.right - element.left) * element.height for element in (one, other)]
    return max(across, 0.0) * max(down, 0.0) / min(areas)
