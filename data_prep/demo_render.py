"""From a plan to a painted demo scene: place, cast shadows, elements and the tint of the light.

The light is seen as a sun, moon or lamp on its side and as a gradient of brightness over the
place; it tints place and elements by the gains of its tone; and each element casts a shadow
away from it.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.demo_places import PLACES, paint_place
from data_prep.demo_plan import TONES, PlacedElement, ScenePlan, plan_scene
from data_prep.demo_sprites import CATEGORIES, Sprite, paint_sprite

LEAST_VISIBLE = 0.6  # share of an element's own mask that others must leave in sight
LEAST_AREA = 0.022  # of the scene's area: what is seen of an element
SHADOW_SHEAR = {"left": 0.85, "right": -0.85, "above": 0.0}  # to the right, per height
SHADOW_LENGTH = {"left": 0.34, "right": 0.34, "above": 0.26}  # downwards, per height
SHADOW_BLUR = 0.008  # of the scene's size
MIRRORED = {"left": "right", "right": "left", "above": "above"}


@dataclass(frozen=True)
class DemoScene:
    """A painted scene and its ground truth; `masks`, `visible_shares` follow `plan.elements`."""

    plan: ScenePlan
    image: np.ndarray  # size size 3 uint8
    masks: list[np.ndarray]  # size size bool: what is visible of an element
    visible_shares: list[float]  # area of a mask / area of the element alone
    shadow: np.ndarray  # size size uint8: share of light, of 255, that the visible ground loses
    shadow_swapped: np.ndarray  # the same with the light on the other side


def render_scene(
    rng: np.random.Generator,
    size: int,
    *,
    held_out: bool | None = None,
    place: str | None = None,
    direction: str | None = None,
    tone: str | None = None,
    count: int | None = None,
) -> DemoScene:
    """Draw and paint a scene of `size` pixels; what is given is kept, see `plan_scene`."""
    while True:
        plan = plan_scene(
            rng, held_out=held_out, place=place, direction=direction, tone=tone, count=count
        )
        scene = paint_scene(plan, size)
        areas = [float(mask.mean()) for mask in scene.masks]
        if min(scene.visible_shares) >= LEAST_VISIBLE and min(areas) >= LEAST_AREA:
            return scene


def paint_scene(plan: ScenePlan, size: int) -> DemoScene:
    """Paint a plan at `size` pixels. A function of its arguments alone."""
    place, gains = PLACES[plan.place], np.asarray(TONES[plan.tone], np.float32)
    rng = np.random.default_rng(plan.texture_seed)
    image = paint_place(rng, size, plan.place, plan.direction, plan.horizon)
    sprites = [_paint_element(element, size) for element in plan.elements]
    shadow = cast_shadows(plan.elements, sprites, plan.direction, size)
    swapped = cast_shadows(plan.elements, sprites, MIRRORED[plan.direction], size)
    image *= 1 - place.shadow_strength * shadow[..., None]
    ground = np.ones((size, size), np.float32)  # what elements leave in sight of the ground
    own, visible = [], []
    for sprite in sprites:
        alpha = _on_canvas(sprite, sprite.alpha, size)
        colours = _on_canvas(sprite, sprite.colours, size) * np.asarray(place.ambient, np.float32)
        image = image * (1 - alpha[..., None]) + colours
        visible = [seen * (1 - alpha) for seen in visible] + [alpha]
        own.append(float((alpha > 0.5).sum()))
        ground *= 1 - alpha
    masks = [seen > 0.5 for seen in visible]
    return DemoScene(
        plan,
        image=_to_bytes(image * gains),
        masks=masks,
        visible_shares=[float(mask.sum()) / area for mask, area in zip(masks, own, strict=True)],
        shadow=_to_bytes(255 * shadow * ground),
        shadow_swapped=_to_bytes(255 * swapped * ground),
    )


def cast_shadows(
    elements: tuple[PlacedElement, ...], sprites: list[Sprite], direction: str, size: int
) -> np.ndarray:
    """Share of light that the elements take from the whole ground: size size float32 [0, 1].

    A shadow is the silhouette, folded down at the line on which the element stands, squashed and
    sheared away from the light; around the foot, which sees little sky, it is dark in any light.
    """
    shear, length = SHADOW_SHEAR[direction], SHADOW_LENGTH[direction]
    shadow = np.zeros((size, size), np.float32)
    for element, sprite in zip(elements, sprites, strict=True):
        base = element.base * size - sprite.top  # in rows of the sprite
        fold = np.array(
            [
                [1, -shear, sprite.left + shear * (base - 0.5)],
                [0, -length, element.base * size - 0.5 + length * (base - 0.5)],
            ]
        )
        folded = cv2.warpAffine(sprite.alpha, fold, (size, size), flags=cv2.INTER_LINEAR)
        shadow = np.maximum(shadow, folded)
        shadow = np.maximum(shadow, _foot(element, size))
    return np.clip(cv2.GaussianBlur(shadow, (0, 0), SHADOW_BLUR * size), 0, 1)


def _foot(element: PlacedElement, size: int) -> np.ndarray:
    """The dark ellipse on which an element stands: size size float32 [0, 1]."""
    width = (element.right - element.left) * CATEGORIES[element.category].foot
    pixels = (np.arange(size, dtype=np.float32) + 0.5) / size
    across = (pixels - element.centre) / (0.55 * width)
    down = (pixels[:, None] - element.base) / (0.015 + 0.06 * width)
    return np.clip(1.5 * (1 - across**2 - down**2), 0, 0.9)


def _paint_element(element: PlacedElement, size: int) -> Sprite:
    return paint_sprite(
        element.category,
        element.rgb,
        left=element.left * size,
        base=element.base * size,
        height=element.height * size,
        mirrored=element.mirrored,
    )


def _on_canvas(sprite: Sprite, values: np.ndarray, size: int) -> np.ndarray:
    """A sprite's values, h w or h w 3, on an empty scene; what lies outside is cut off."""
    canvas = np.zeros((size, size, *values.shape[2:]), np.float32)
    height, width = values.shape[:2]
    top, left = max(sprite.top, 0), max(sprite.left, 0)
    part = values[top - sprite.top : size - sprite.top, left - sprite.left : size - sprite.left]
    canvas[top : sprite.top + height, left : sprite.left + width] = part
    return canvas


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)
