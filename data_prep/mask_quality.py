"""How well the edge of a mask follows an edge of the image.

As active shape models do (Cootes et al., "Active Shape Models", 1995), look along the normals of
the outline for the strongest step in colour. On a good mask that is where the outline runs; on a
bad one, or where the object has no visible edge, it is anywhere.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.framing import Coverage

REACH = 5  # pixels to both sides of the outline where a step may be
TOLERANCE = 1  # pixels from the outline
TANGENT = 3  # points of the outline to both sides that give its direction
STRIDE = 2  # points of the outline
SEGMENT = 4  # strides whose colours are averaged: texture does not run along an edge
MOST_POINTS = 2048


def mask_quality(scene: NDArray[np.uint8], coverage: Coverage) -> float:
    """The share of the outline on which the strongest step nearby lies, less what chance gives.

    The scene is u8 H W 3. 1 is a perfect mask, 0 one as good as any other; an outline too short to
    tell counts as 1.
    """
    points, normals = _outline(coverage)
    if not len(points):
        return 1.0
    offsets = np.arange(-REACH - 1, REACH + 2, dtype=np.float32)
    x, y = np.moveaxis(points[:, None] + normals[:, None] * offsets[:, None], -1, 0)  # n offsets
    colours = cv2.remap(scene, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    segments = colours.reshape(-1, SEGMENT, len(offsets), 3).mean(1, dtype=np.float32)
    steps = np.square(segments[:, 2:] - segments[:, :-2]).sum(-1)
    distances = np.abs(steps.argmax(1) - REACH)
    chance = (2 * TOLERANCE + 1) / (2 * REACH + 1)
    return max(0.0, (float((distances <= TOLERANCE).mean()) - chance) / (1 - chance))


def _outline(coverage: Coverage) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points of the outline in the scene, x and y, and its normals there; whole segments only."""
    inside = np.pad((coverage.values >= 128).astype(np.uint8), 1)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    stride = max(STRIDE, sum(map(len, contours)) // MOST_POINTS)
    origin = np.array([coverage.box.left - 1, coverage.box.top - 1], np.float32)
    points, normals = [np.empty((0, 2), np.float32)], [np.empty((0, 2), np.float32)]
    for contour in contours:
        along = contour[:, 0].astype(np.float32)
        used = slice(0, len(along) // (stride * SEGMENT) * stride * SEGMENT, stride)
        tangents = (np.roll(along, -TANGENT, 0) - np.roll(along, TANGENT, 0))[used]
        lengths = np.linalg.norm(tangents, axis=1, keepdims=True)
        points.append(along[used] + origin)
        normals.append(tangents[:, ::-1] * [1, -1] / np.maximum(lengths, 1))
    return np.concatenate(points), np.concatenate(normals, dtype=np.float32)
