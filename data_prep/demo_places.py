"""The demo's eight places: what lies behind the elements, and what the light does to it.

A painter draws sky, scenery, ground and the source of the light (at `sun`) on a `Sheet`; grain,
glow and a gradient of brightness come after. Equal random numbers draw the same place at every
size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.demo_sheet import Colour, Points, Sheet, arc, shade

DIRECTIONS = ("left", "right", "above")  # where the light comes from
SOURCE_X = {"left": 0.14, "right": 0.86, "above": 0.5}
SOURCE_JITTER = 0.03
SIDE_GAIN = 0.21  # change of brightness from the middle to an edge
MIDDLE_LOSS = 0.25  # of it: lost in the middle, so that the lit edge stays within the range
GLOW_RADIUS = 0.2  # of the scene's size
GLOW_SHARE = 0.36  # in its middle

Generator = np.random.Generator
Position = tuple[float, float]  # x, y


def paint_beach(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Sea with a sailing boat, surf, and sand with pebbles."""
    shallow, shore = (72, 178, 190), horizon + 0.12
    sheet.gradient(0, horizon, (76, 150, 214), (176, 212, 226))
    _clouds(sheet, rng, 0.1, horizon - 0.1, (238, 240, 238))
    sheet.ellipse(*sun, 0.06, 0.06, (255, 240, 170))
    sheet.gradient(horizon, shore, (28, 104, 168), shallow)
    for y in np.linspace(0.015, 0.08, 5):
        sheet.ellipse(rng.uniform(0, 0.8), horizon + y, 0.03 + y, 0.004, (150, 208, 216))
    x = rng.uniform(0.1, 0.9)
    sail = [(x, horizon - 0.09), (x + 0.05, horizon - 0.005), (x, horizon - 0.005)]
    sheet.polygon(sail, (240, 236, 226))
    hull = (x - 0.04, x + 0.06, horizon), (x - 0.02, x + 0.04, horizon + 0.02)
    sheet.slab(*hull, (150, 84, 56))
    sheet.gradient(shore, 1, (228, 208, 156), (208, 174, 112))
    surf = _hills(rng, shore + 0.005, 0.025, 1.3)
    sheet.polygon([*surf, (1, shore - 0.02), (0, shore - 0.02)], shallow)
    sheet.band(surf, 0.014, (236, 240, 234))
    for x, y in rng.uniform((0, horizon + 0.2), (1, 1), (14, 2)):
        pebble = shade((196, 150, 106), rng.uniform(0.9, 1.6))
        sheet.ellipse(x, y, 0.006 + 0.008 * y, 0.007, pebble)


def paint_meadow(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Green hills under clouds, and grass with flowers."""
    sheet.gradient(0, horizon, (84, 158, 222), (188, 218, 232))
    _clouds(sheet, rng, 0.12, horizon - 0.14, (242, 244, 242))
    sheet.ellipse(*sun, 0.06, 0.06, (255, 242, 168))
    sheet.band(_hills(rng, horizon, 0.13, 1.0), 0.14, (132, 184, 138))
    sheet.band(_hills(rng, horizon, 0.07, 1.7), 0.08, (104, 168, 92))
    sheet.gradient(horizon, 1, (124, 186, 78), (64, 138, 48))
    for x, depth in rng.uniform(0, 1, (46, 2)):
        y, size = horizon + 0.04 + depth * (0.96 - horizon), 0.012 + 0.02 * depth
        blade = shade((92, 164, 58), rng.uniform(0.75, 1.2))
        sheet.triangle(x, y - size * 1.6, size / 2, y, blade)
    petals = ((244, 240, 232), (246, 214, 70), (236, 132, 160))
    for x, depth in rng.uniform(0, 1, (16, 2)):
        y, size = horizon + 0.06 + depth * (0.92 - horizon), 0.006 + 0.009 * depth
        sheet.ellipse(x, y, size, size, petals[rng.integers(3)])


def paint_desert(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Two table mountains, a cactus, and dunes."""
    sheet.gradient(0, horizon, (104, 170, 196), (232, 208, 160))
    sheet.ellipse(*sun, 0.065, 0.065, (255, 240, 176))
    for x in (0.1, 0.6):
        left, height = x + rng.uniform(-0.1, 0.15), rng.uniform(0.1, 0.17)
        right, stripe = left + 0.2, horizon - height * 0.62
        top = (left, right, horizon - height)
        sheet.slab(top, (left - 0.05, right + 0.06, horizon), (196, 122, 84))
        upper, lower = (left - 0.012, right + 0.013), (left - 0.02, right + 0.025)
        sheet.slab((*upper, stripe), (*lower, stripe + 0.02), (222, 152, 104))
    x, y, cactus = rng.uniform(0.1, 0.9), horizon + 0.03, (92, 132, 78)
    for offset, top, bottom in ((0, 0.13, 0), (-0.04, 0.1, 0.05), (0.04, 0.085, 0.035)):
        sheet.ellipse(x + offset, y - (top + bottom) / 2, 0.013, (top - bottom) / 2, cactus)
    sheet.rectangle(x - 0.04, y - 0.065, x + 0.04, y - 0.05, cactus)
    sheet.gradient(horizon, 1, (230, 178, 104), (196, 124, 66))
    for step, gain in ((0.1, 0.93), (0.24, 1.06), (0.42, 0.94)):
        dune = _hills(rng, horizon + step + 0.06, 0.09, 0.8)
        sheet.band(dune, 0.035 + 0.06 * step, shade((214, 152, 84), gain))


def paint_snow(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Capped mountains behind firs, snow drifts, and flakes in the sky."""
    sheet.gradient(0, horizon, (122, 156, 196), (200, 212, 224))
    sheet.ellipse(*sun, 0.06, 0.06, (255, 246, 214))
    rim = ((0, 0), (0.35, 0.35), (0.12, 0.28), (0, 0.42), (-0.14, 0.28), (-0.35, 0.35))
    for middle in (0.12, 0.5, 0.86):
        x, height = middle + rng.uniform(-0.1, 0.1), rng.uniform(0.16, 0.25)
        top, reach = horizon - height, height * 1.1
        sheet.triangle(x, top, reach, horizon, (124, 144, 176))
        cap = [(x + reach * across, top + height * down) for across, down in rim]
        sheet.polygon(cap, (232, 236, 238))
    for middle in np.linspace(0.02, 0.98, 13):
        x, size = middle + rng.uniform(-0.03, 0.03), rng.uniform(0.05, 0.09)
        sheet.triangle(x, horizon - size, size * 0.4, horizon + 0.01, (74, 108, 112))
    sheet.gradient(horizon, 1, (208, 218, 226), (226, 228, 228))
    for step, gain in ((0.14, 0.95), (0.3, 1.25), (0.44, 0.96)):
        sheet.band(_hills(rng, horizon + step, 0.06, 0.9), 0.04, shade((216, 223, 228), gain))
    for x, y in rng.uniform((0, 0), (1, horizon), (22, 2)):
        sheet.ellipse(x, y, 0.007, 0.007, (240, 242, 244))


def paint_city(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Lit windows under the moon and stars, and a street."""
    sheet.gradient(0, horizon, (16, 20, 58), (62, 58, 112))
    for x, y in rng.uniform((0, 0), (1, horizon), (26, 2)):
        sheet.ellipse(x, y, 0.006, 0.006, (196, 200, 222))
    sheet.ellipse(*sun, 0.062, 0.062, (236, 234, 214))
    for x, y, radius in ((-0.02, -0.015, 0.014), (0.022, 0.01, 0.011), (-0.008, 0.028, 0.009)):
        sheet.ellipse(sun[0] + x, sun[1] + y, radius, radius, (206, 204, 190))
    left = -0.03
    while left < 1:
        right, top = left + rng.uniform(0.11, 0.2), horizon - rng.uniform(0.09, 0.23)
        wall = ((34, 34, 62), (46, 42, 74), (40, 48, 78))[rng.integers(3)]
        sheet.rectangle(left, top, right, horizon, wall)
        for x in np.arange(left + 0.02, right - 0.03, 0.042):
            for y in np.arange(top + 0.025, horizon - 0.03, 0.05):
                glass = (248, 206, 108) if rng.random() < 0.6 else shade(wall, 0.75)
                sheet.rectangle(x, y, x + 0.022, y + 0.028, glass)
        left = right
    kerb, middle = horizon + 0.06, horizon + 0.3
    sheet.gradient(horizon, kerb, (112, 108, 128), (104, 100, 122))
    sheet.gradient(kerb, 1, (74, 74, 96), (90, 90, 112))
    sheet.rectangle(0, kerb, 1, kerb + 0.012, (58, 58, 78))
    for x in np.arange(rng.uniform(-0.2, 0), 1.1, 0.26):
        mark = (x, x + 0.13, middle), (x - 0.014, x + 0.12, middle + 0.026)
        sheet.slab(*mark, (168, 160, 128))


def paint_room(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Striped wallpaper with pictures, a hanging lamp, floor boards and a rug."""
    walls = ((202, 162, 132), (148, 180, 186), (184, 150, 178), (168, 182, 132))
    wall = walls[rng.integers(len(walls))]
    sheet.gradient(0, horizon, wall, shade(wall, 0.93))
    for x in np.arange(0.02, 1, 0.1):
        sheet.rectangle(x, 0, x + 0.045, horizon, shade(wall, 1.22))
    peaks = ((-0.065, 0.052), (-0.01, -0.03), (0.02, 0.01), (0.04, -0.01), (0.065, 0.052))
    for middle, paint in ((0.3, (110, 158, 190)), (0.7, (196, 130, 96))):
        x, y = middle + rng.uniform(-0.06, 0.06), horizon * rng.uniform(0.5, 0.6)
        sheet.rectangle(x - 0.085, y - 0.07, x + 0.085, y + 0.07, (126, 84, 56))
        sheet.rectangle(x - 0.065, y - 0.052, x + 0.065, y + 0.052, (232, 226, 210))
        sheet.polygon([(x + across, y + down) for across, down in peaks], paint)
    sheet.gradient(horizon, 1, (176, 124, 80), (150, 98, 60))
    for board in range(-13, 15, 2):
        far, near = 0.5 + 0.07 * board, 0.5 + 0.16 * board
        wood = shade((158, 106, 66), rng.uniform(0.9, 1))
        sheet.slab((far, far + 0.07, horizon), (near, near + 0.16, 1), wood)
    sheet.gradient(horizon - 0.025, horizon + 0.008, (232, 226, 216), (206, 198, 186))
    rug = ((170, 92, 88), (88, 122, 150), (116, 134, 96))[rng.integers(3)]
    for radius, gain in ((1, 1), (0.86, 1.45), (0.78, 1)):
        sheet.ellipse(0.5, horizon / 2 + 0.56, 0.43 * radius, 0.17 * radius, shade(rug, gain))
    x, y = sun
    sheet.rectangle(x - 0.005, 0, x + 0.005, y - 0.04, (70, 60, 56))
    sheet.ellipse(x, y + 0.035, 0.035, 0.03, (255, 250, 214))
    sheet.slab((x - 0.03, x + 0.03, y - 0.05), (x - 0.09, x + 0.09, y + 0.035), (246, 206, 116))


def paint_sunset(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """A large low sun behind hills, and a field of lavender."""
    middle = horizon * 0.55
    sheet.gradient(0, middle, (96, 60, 134), (222, 104, 102))
    sheet.gradient(middle, horizon, (222, 104, 102), (250, 178, 92))
    sheet.ellipse(*sun, 0.09, 0.09, (255, 226, 140))
    for y in (0.25, 0.45, 0.62):
        x, width = rng.uniform(0, 1), rng.uniform(0.16, 0.3)
        sheet.ellipse(x, horizon * y, width, 0.013, (240, 140, 112))
    sheet.band(_hills(rng, horizon, 0.12, 1.1), 0.13, (166, 84, 108))
    sheet.band(_hills(rng, horizon, 0.07, 1.8), 0.08, (122, 64, 98))
    sheet.gradient(horizon, 1, (196, 112, 92), (128, 66, 84))
    centre = rng.uniform(0.35, 0.65)
    for row in range(-16, 16, 2):
        far, near = centre + 0.05 * row, centre + 0.2 * row
        sheet.slab((far, far + 0.03, horizon), (near, near + 0.14, 1), (130, 70, 100))


def paint_forest(sheet: Sheet, rng: Generator, horizon: float, sun: Position) -> None:
    """Trunks under a canopy with a gap for the sun, and moss with fallen leaves."""
    sheet.gradient(0, horizon, (96, 138, 92), (176, 196, 130))
    for count, width, bark in ((9, 0.018, (116, 128, 84)), (6, 0.03, (92, 76, 54))):
        for middle in np.linspace(0.03, 0.97, count):
            x, wide = middle + rng.uniform(-0.06, 0.06), width * rng.uniform(0.8, 1.3)
            foot = horizon + rng.uniform(0, 0.03)
            sheet.slab((x - wide * 0.8, x + wide * 0.8, 0), (x - wide, x + wide, foot), bark)
    for y, reach, leaf in ((0.06, 0.11, (66, 116, 58)), (0.0, 0.1, (46, 92, 48))):
        for x in np.linspace(-0.02, 1.02, 9):
            radius, green = reach * rng.uniform(0.8, 1.2), shade(leaf, rng.uniform(0.9, 1))
            sheet.ellipse(x, y + rng.uniform(-0.02, 0.02), radius, radius * 0.8, green)
    sheet.ellipse(*sun, 0.075, 0.07, (224, 232, 150))
    sheet.ellipse(*sun, 0.05, 0.05, (255, 248, 190))
    sheet.gradient(horizon, 1, (110, 134, 66), (70, 98, 44))
    for middle in np.linspace(0.04, 0.96, 10):
        x, size = middle + rng.uniform(-0.04, 0.04), rng.uniform(0.03, 0.055)
        bush = shade((72, 118, 56), rng.uniform(0.85, 1))
        sheet.ellipse(x, horizon + 0.005, size, size * 0.8, bush)
    leaves = ((150, 112, 56), (96, 124, 54), (122, 144, 70))
    for x, depth in rng.uniform(0, 1, (30, 2)):
        y, size = horizon + 0.05 + depth * (0.95 - horizon), 0.008 + 0.012 * depth
        sheet.ellipse(x, y, size, size * 0.55, leaves[rng.integers(3)])


def _hills(rng: Generator, base: float, height: float, waves: float) -> Points:
    """A wavy line over the full width, between `base - height` and `base`."""
    x = np.linspace(0, 1, 65)
    phase, second_phase = rng.uniform(0, 2 * np.pi, 2)
    wave = np.sin(2 * np.pi * waves * x + phase)
    wave += 0.5 * np.sin(4.6 * np.pi * waves * x + second_phase)
    return list(zip(x.tolist(), (base - height * (wave + 1.5) / 3).tolist(), strict=True))


def _clouds(sheet: Sheet, rng: Generator, highest: float, lowest: float, colour: Colour) -> None:
    """Three flat clouds between two heights."""
    for middle in (0.2, 0.55, 0.9):
        x, y = middle + rng.uniform(-0.15, 0.15), rng.uniform(highest, lowest)
        size = rng.uniform(0.6, 1)
        for offset, radius in ((-0.08, 0.04), (0, 0.065), (0.08, 0.045)):
            puff = arc(x + offset * size, y, radius * size, radius * size, 180, 360)
            sheet.polygon(puff, colour)
        sheet.ellipse(x, y, 0.14 * size, 0.022 * size, colour)


@dataclass(frozen=True)
class Place:
    """A place, how a caption says it, and what its light does."""

    phrase: str
    paint: Callable[[Sheet, Generator, float, Position], None]
    ambient: Colour  # gains of RGB on the elements that stand there
    shadow_strength: float  # share of the ground's brightness that a full shadow takes
    glow: Colour
    grain: float  # deviation of the ground's texture, in levels of 255
    source_y: float = 0.11  # of the light, from the top


PLACES: dict[str, Place] = {
    "beach": Place("on the beach", paint_beach, (1.0, 1.0, 0.96), 0.5, (255, 244, 190), 4),
    "meadow": Place("in a meadow", paint_meadow, (0.98, 1.02, 0.94), 0.5, (255, 246, 190), 5),
    "desert": Place("in the desert", paint_desert, (1.03, 0.96, 0.84), 0.52, (255, 244, 196), 5),
    "snow": Place("in the snow", paint_snow, (0.94, 0.99, 1.05), 0.42, (255, 248, 228), 2),
    "city": Place(
        "in a city at night", paint_city, (0.52, 0.55, 0.76), 0.6, (190, 194, 214), 3, 0.1
    ),
    "room": Place("in a room", paint_room, (1.0, 0.92, 0.82), 0.48, (255, 236, 190), 2, 0.13),
    "sunset": Place("at sunset", paint_sunset, (1.0, 0.72, 0.62), 0.55, (255, 206, 130), 4, 0.22),
    "forest": Place(
        "in a forest", paint_forest, (0.76, 0.84, 0.64), 0.52, (232, 236, 160), 5, 0.13
    ),
}


def paint_place(
    rng: Generator, size: int, place: str, direction: str, horizon: float
) -> np.ndarray:
    """The empty place in white light from `direction`: size size 3 float32, about [0, 255]."""
    kind = PLACES[place]
    x = SOURCE_X[direction] + rng.uniform(-SOURCE_JITTER, SOURCE_JITTER)
    y = kind.source_y + rng.uniform(-SOURCE_JITTER, SOURCE_JITTER) / 2
    sheet = Sheet(size, size)
    kind.paint(sheet, rng, horizon, (x, y))
    image, _ = sheet.averaged()
    across = (np.arange(size, dtype=np.float32) + 0.5) / size
    down = across[:, None]
    ground = np.clip((down - horizon) / 0.1, 0, 1)
    image += kind.grain * (_grain(rng, size) * ground)[..., None]
    distance = ((across - x) ** 2 + (down - y) ** 2) / GLOW_RADIUS**2
    glow = GLOW_SHARE * np.exp(-distance)[..., None]
    image += glow * np.maximum(np.asarray(kind.glow, np.float32) - image, 0)
    match direction:
        case "left":
            towards = 1 - 2 * across
        case "right":
            towards = 2 * across - 1
        case _:
            towards = 0.5 - 2 * np.abs(across - 0.5)
    return image * (1 + SIDE_GAIN * (towards - MIDDLE_LOSS))[:, None]


def _grain(rng: Generator, size: int) -> np.ndarray:
    """Texture of the ground: flat streaks and speckle, deviation about 1, size size float32."""
    streaks, speckle = (
        cv2.resize(
            rng.standard_normal(cells).astype(np.float32),
            (size, size),
            interpolation=cv2.INTER_CUBIC,
        )
        for cells in ((24, 8), (64, 64))
    )
    return 0.8 * streaks + 0.6 * speckle
