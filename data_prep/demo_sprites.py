"""The demo's elements: eight categories in eight colours.

They are painted the same way whatever the light: their shading is symmetric or part of the toy,
so that a cut-out does not tell from which side its scene is lit. A painter draws in the unit
square: the element stands on y = 1 and fills the square's width and height.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.demo_sheet import SUPERSAMPLE, Colour, Sheet, arc, rounded, shade

OUTLINE_WIDTH = 0.035  # of the element's shorter side
OUTLINE_GAIN = 0.55
TOP_GAIN, BOTTOM_GAIN = 1.07, 0.84  # soft shade from the top of an element to its foot

COLOURS: dict[str, Colour] = {
    "red": (206, 40, 44),
    "orange": (232, 116, 24),
    "yellow": (230, 194, 44),
    "green": (48, 156, 66),
    "blue": (42, 88, 208),
    "purple": (122, 54, 172),
    "pink": (234, 112, 150),
    "white": (220, 220, 216),
}
WOOD: Colour = (104, 67, 44)
LAMPLIGHT: Colour = (246, 228, 150)
INK: Colour = (40, 38, 44)
STEEL: Colour = (150, 154, 164)
CREAM: Colour = (226, 212, 184)


def paint_ball(sheet: Sheet, colour: Colour) -> None:
    """A toy ball with a light band."""
    sheet.ellipse(0.5, 0.5, 0.5, 0.5, shade(colour, 0.8))
    sheet.ellipse(0.5, 0.46, 0.44, 0.44, colour)
    band = [*arc(0.5, 0.42, 0.48, 0.16, 8, 172), *arc(0.5, 0.58, 0.48, 0.16, 172, 8)]
    sheet.polygon(band, shade(colour, 1.7))
    sheet.ellipse(0.5, 0.2, 0.17, 0.09, shade(colour, 1.5))


def paint_box(sheet: Sheet, colour: Colour) -> None:
    """A present with a ribbon and a bow."""
    ribbon = shade(colour, 1.7)
    sheet.ellipse(0.36, 0.1, 0.15, 0.09, ribbon)
    sheet.ellipse(0.64, 0.1, 0.15, 0.09, ribbon)
    sheet.rectangle(0.06, 0.36, 0.94, 1, colour)
    sheet.rectangle(0.06, 0.36, 0.94, 0.44, shade(colour, 0.65))
    sheet.rectangle(0, 0.17, 1, 0.38, shade(colour, 1.15))
    sheet.rectangle(0.42, 0.17, 0.58, 1, ribbon)


def paint_tree(sheet: Sheet, colour: Colour) -> None:
    """A fir tree with baubles."""
    sheet.rectangle(0.41, 0.75, 0.59, 1, WOOD)
    tiers = ((0.34, 0.84, 0.5, 0.78), (0.17, 0.6, 0.4, 0.9), (0, 0.37, 0.3, 1))
    for top, bottom, reach, gain in tiers:
        skirt = arc(0.5, bottom - 0.03, reach, 0.06, 0, 180)
        sheet.polygon([(0.5, top), *skirt], shade(colour, gain))
    baubles = ((0.5, 0.24), (0.34, 0.5), (0.64, 0.48), (0.24, 0.76), (0.52, 0.72), (0.76, 0.77))
    for x, y in baubles:
        sheet.ellipse(x, y, 0.045, 0.032, shade(colour, 1.6))


def paint_car(sheet: Sheet, colour: Colour) -> None:
    """A small car from the side, driving to the right."""
    roof = [*arc(0.36, 0.17, 0.09, 0.17, 180, 270), *arc(0.62, 0.17, 0.1, 0.17, 270, 340)]
    sheet.polygon([(0.17, 0.46), *roof, (0.84, 0.46)], colour)
    glass = (196, 220, 228)
    sheet.slab((0.32, 0.47, 0.1), (0.24, 0.47, 0.42), glass)
    sheet.slab((0.52, 0.65, 0.1), (0.52, 0.75, 0.42), glass)
    sheet.polygon(rounded(0, 0.4, 1, 0.84, 0.08, 0.16), colour)
    sheet.rectangle(0.02, 0.66, 0.98, 0.74, shade(colour, 0.7))
    sheet.ellipse(0.95, 0.54, 0.035, 0.07, LAMPLIGHT)
    sheet.rectangle(0.5, 0.5, 0.56, 0.54, shade(colour, 0.6))
    for x in (0.23, 0.77):
        sheet.ellipse(x, 0.78, 0.125, 0.22, INK)
        sheet.ellipse(x, 0.78, 0.055, 0.1, (196, 196, 196))


def paint_house(sheet: Sheet, colour: Colour) -> None:
    """A house with a gable, lit windows and a chimney."""
    sheet.rectangle(0.68, 0.06, 0.82, 0.4, shade(colour, 0.7))
    sheet.rectangle(0.1, 0.4, 0.9, 1, colour)
    sheet.triangle(0.5, 0, 0.5, 0.46, shade(colour, 0.55))
    sheet.ellipse(0.5, 0.3, 0.08, 0.075, LAMPLIGHT)
    sheet.polygon([(0.4, 1), *arc(0.5, 0.72, 0.1, 0.1, 180, 360), (0.6, 1)], WOOD)
    for left in (0.17, 0.67):
        sheet.rectangle(left - 0.015, 0.555, left + 0.175, 0.755, shade(colour, 1.8))
        sheet.rectangle(left + 0.01, 0.58, left + 0.15, 0.73, LAMPLIGHT)


def paint_cat(sheet: Sheet, colour: Colour) -> None:
    """A sitting cat that looks at the viewer."""
    middle, light = 0.44, shade(colour, 1.45)
    tail = [*arc(0.8, 0.82, 0.2, 0.18, 90, -80), *arc(0.8, 0.82, 0.09, 0.1, -80, 90)]
    sheet.polygon(tail, shade(colour, 0.8))
    sheet.polygon([(0.1, 1), *arc(middle, 0.86, 0.36, 0.42, 180, 360), (0.8, 1)], colour)
    sheet.ellipse(middle, 0.82, 0.16, 0.17, light)
    for side in (-1, 1):
        ear = [(0.36, 0.0), (0.37, 0.32), (0.08, 0.14)]
        inner = [(0.31, 0.08), (0.32, 0.25), (0.17, 0.16)]
        sheet.polygon([(middle + side * x, y) for x, y in ear], colour)
        sheet.polygon([(middle + side * x, y) for x, y in inner], (232, 150, 150))
        sheet.ellipse(middle + side * 0.16, 0.955, 0.12, 0.055, light)
    sheet.ellipse(middle, 0.34, 0.39, 0.25, colour)
    sheet.ellipse(middle, 0.44, 0.14, 0.1, light)
    for side in (-1, 1):
        sheet.ellipse(middle + side * 0.19, 0.32, 0.065, 0.075, INK)
    sheet.ellipse(middle, 0.4, 0.05, 0.03, (150, 70, 80))


def paint_mushroom(sheet: Sheet, colour: Colour) -> None:
    """A toadstool with a dotted cap and a face."""
    sheet.polygon([(0.36, 0.45), (0.64, 0.45), *arc(0.5, 0.86, 0.24, 0.14, 0, 180)], CREAM)
    sheet.rectangle(0.35, 0.52, 0.65, 0.62, shade(CREAM, 0.75))
    sheet.polygon([*arc(0.5, 0.52, 0.5, 0.52, 180, 360), *arc(0.5, 0.52, 0.5, 0.1, 0, 180)], colour)
    dots = ((0.5, 0.18, 0.1), (0.22, 0.36, 0.085), (0.78, 0.36, 0.085), (0.5, 0.47, 0.075))
    for x, y, radius in dots:
        sheet.ellipse(x, y, radius, radius * 0.85, shade(CREAM, 1.5))
    for x in (0.42, 0.58):
        sheet.ellipse(x, 0.75, 0.03, 0.045, INK)


def paint_robot(sheet: Sheet, colour: Colour) -> None:
    """A friendly robot with steel limbs."""
    sheet.rectangle(0.465, 0.05, 0.535, 0.16, STEEL)
    sheet.ellipse(0.5, 0.055, 0.09, 0.055, shade(colour, 1.4))
    for side in (-1, 1):
        leg, arm = 0.5 + side * 0.17, 0.5 + side * 0.42
        sheet.rectangle(leg - 0.08, 0.8, leg + 0.08, 0.96, STEEL)
        sheet.polygon(rounded(leg - 0.15, 0.91, leg + 0.15, 1, 0.05, 0.04), shade(STEEL, 0.6))
        sheet.polygon(rounded(arm - 0.08, 0.5, arm + 0.08, 0.8, 0.08, 0.06), STEEL)
    sheet.polygon(rounded(0.15, 0.46, 0.85, 0.84, 0.08, 0.05), colour)
    sheet.polygon(rounded(0.12, 0.13, 0.88, 0.47, 0.12, 0.09), colour)
    sheet.polygon(rounded(0.2, 0.2, 0.8, 0.38, 0.1, 0.07), INK)
    sheet.rectangle(0.3, 0.55, 0.7, 0.73, shade(colour, 1.6))
    for side in (-1, 1):
        sheet.ellipse(0.5 + side * 0.14, 0.29, 0.075, 0.055, (150, 236, 236))
        sheet.ellipse(0.5 + side * 0.1, 0.64, 0.06, 0.045, shade(colour, 0.6))


@dataclass(frozen=True)
class Category:
    """How a category is painted, and its usual form."""

    paint: Callable[[Sheet, Colour], None]
    height: float  # of the scene's height, in the middle of the ground
    aspect: float  # width / height
    foot: float  # width of what touches the ground / width


CATEGORIES: dict[str, Category] = {
    "ball": Category(paint_ball, height=0.26, aspect=1.0, foot=0.5),
    "box": Category(paint_box, height=0.27, aspect=1.0, foot=0.9),
    "tree": Category(paint_tree, height=0.4, aspect=0.74, foot=0.3),
    "car": Category(paint_car, height=0.23, aspect=1.8, foot=0.9),
    "house": Category(paint_house, height=0.36, aspect=1.05, foot=0.85),
    "cat": Category(paint_cat, height=0.29, aspect=0.84, foot=0.8),
    "mushroom": Category(paint_mushroom, height=0.27, aspect=1.0, foot=0.5),
    "robot": Category(paint_robot, height=0.33, aspect=0.72, foot=0.65),
}


@dataclass(frozen=True)
class Sprite:
    """A painted element in its window of the scene, which may stick out of it."""

    colours: np.ndarray  # h w 3 float32 [0, 255], premultiplied by alpha
    alpha: np.ndarray  # h w float32 [0, 1]
    left: int  # of the window, in pixels of the scene
    top: int


def paint_sprite(
    category: str, colour: Colour, *, left: float, base: float, height: float, mirrored: bool
) -> Sprite:
    """The element whose box starts at `left`, stands on `base` and is `height` high.

    In pixels of the scene, fractions allowed. `mirrored` swaps the element's own left and right.
    """
    kind = CATEGORIES[category]
    right, top = left + height * kind.aspect, base - height
    window_left, window_top = math.floor(left) - 1, math.floor(top) - 1
    rows, columns = math.ceil(base) + 1 - window_top, math.ceil(right) + 1 - window_left
    first, last = (right, left) if mirrored else (left, right)
    box = (first - window_left, top - window_top, last - window_left, base - window_top)
    sheet = Sheet(rows, columns, box)
    kind.paint(sheet, colour)
    _outline(sheet.pixels, OUTLINE_WIDTH * height * min(kind.aspect, 1) * SUPERSAMPLE)
    colours, alpha = sheet.averaged()
    down = np.clip((np.arange(rows, dtype=np.float32) + 0.5 + window_top - top) / height, 0, 1)
    colours *= (TOP_GAIN + (BOTTOM_GAIN - TOP_GAIN) * down)[:, None, None]
    return Sprite(colours, alpha, window_left, window_top)


def _outline(pixels: np.ndarray, width: float) -> None:
    """Darken, in place, the band of `width` sheet pixels inside the silhouette of an RGBA sheet."""
    side = 2 * max(1, round(width)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    band = (pixels[..., 3] > 0) & (cv2.erode(pixels[..., 3], kernel) == 0)
    pixels[band, :3] = (pixels[band, :3] * OUTLINE_GAIN).astype(np.uint8)
