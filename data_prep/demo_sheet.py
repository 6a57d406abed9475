"""The sheet on which elements and places are drawn, in unit coordinates (x right, y down)."""

from collections.abc import Sequence

import cv2
import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in [0, 255], or gains of them
Points = Sequence[tuple[float, float]]

SUPERSAMPLE = 4  # sheet pixels along one image pixel
BRIGHTEST = 250  # of a colour mixed with white


class Sheet:
    """A supersampled RGBA sheet of `height` x `width` image pixels, empty at first.

    `box` is the (left, top, right, bottom) that the unit square covers, in image pixels, fractions
    allowed; left and right may be swapped to draw mirrored. By default it is the whole sheet.
    """

    def __init__(
        self, height: int, width: int, box: tuple[float, float, float, float] | None = None
    ) -> None:
        left, top, right, bottom = box or (0, 0, width, height)
        self.size = (height, width)
        self.pixels = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, 4), np.uint8)
        self._origin = np.array([left, top])
        self._span = np.array([right - left, bottom - top])

    def polygon(self, points: Points, colour: Colour) -> None:
        """Fill a polygon; `colour` is clipped to [0, 255]."""
        on_sheet = (self._origin + np.asarray(points) * self._span) * SUPERSAMPLE - 0.5
        fixed_point = np.round(on_sheet * 256).astype(np.int32)
        red, green, blue = np.clip(colour, 0, 255).tolist()
        cv2.fillPoly(self.pixels, [fixed_point], (red, green, blue, 255), shift=8)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, colour: Colour
    ) -> None:
        """Fill the rectangle between two corners."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon(arc(x, y, radius_x, radius_y, 0, 360), colour)

    def triangle(self, x: float, top: float, half: float, bottom: float, colour: Colour) -> None:
        """Fill a triangle with its tip at (x, top) and a base of `half` to either side."""
        self.polygon([(x, top), (x + half, bottom), (x - half, bottom)], colour)

    def slab(
        self,
        upper: tuple[float, float, float],
        lower: tuple[float, float, float],
        colour: Colour,
    ) -> None:
        """Fill a trapezoid between two level edges, each (left, right, y)."""
        (left, right, top), (low_left, low_right, bottom) = upper, lower
        self.polygon([(left, top), (right, top), (low_right, bottom), (low_left, bottom)], colour)

    def band(self, line: Points, thickness: float, colour: Colour) -> None:
        """Fill what lies within `thickness` below a line."""
        lower = [(x, y + thickness) for x, y in line]
        self.polygon([*line, *lower[::-1]], colour)

    def gradient(self, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
        """Fill the full-width band between two heights with a vertical gradient."""
        rows = len(self.pixels)
        first, last = round(top * rows), round(bottom * rows)
        share = np.linspace(0, 1, last - first)[:, None]
        colours = np.asarray(upper) * (1 - share) + np.asarray(lower) * share
        self.pixels[first:last, :, :3] = colours[:, None]
        self.pixels[first:last, :, 3] = 255

    def averaged(self) -> tuple[np.ndarray, np.ndarray]:
        """Colours H W 3 float32 [0, 255], premultiplied by alpha, and alpha H W float32 [0, 1]."""
        height, width = self.size
        small = cv2.resize(
            self.pixels.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
        return small[..., :3], small[..., 3] / 255


def arc(
    x: float, y: float, radius_x: float, radius_y: float, start: float, end: float
) -> list[tuple[float, float]]:
    """Points of an elliptic arc around (x, y); degrees: 0 is right, 90 down, 270 up."""
    angles = np.radians(np.linspace(start, end, 33))
    along = (x + radius_x * np.cos(angles)).tolist()
    return list(zip(along, (y + radius_y * np.sin(angles)).tolist(), strict=True))


def rounded(
    left: float, top: float, right: float, bottom: float, radius_x: float, radius_y: float
) -> Points:
    """Points of a rectangle with elliptic corners."""
    corners = [
        (right - radius_x, bottom - radius_y, 0),
        (left + radius_x, bottom - radius_y, 90),
        (left + radius_x, top + radius_y, 180),
        (right - radius_x, top + radius_y, 270),
    ]
    return [
        point
        for x, y, angle in corners
        for point in arc(x, y, radius_x, radius_y, angle, angle + 90)
    ]


def shade(colour: Colour, gain: float) -> Colour:
    """The colour darkened (gain < 1), or mixed with white (gain > 1, 2 is all white)."""
    white, own = (0.0, gain) if gain <= 1 else (gain - 1, 2 - gain)
    red, green, blue = (value * own + BRIGHTEST * white for value in colour)
    return red, green, blue
