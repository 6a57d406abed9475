"""Worked examples for the instructions: one drawn scene, whole and spoilt in one way at a time."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from data_prep.demo_render import paint_scene, render_scene

SIZE = 384  # pixels a side
SEED = 11  # of a scene whose shadow is easy to see


@dataclass(frozen=True)
class DrawnExample:
    """A foreground (RGBA), what became of it, and what to see there."""

    foreground: Image.Image
    image: Image.Image
    caption: str


def draw_examples() -> list[DrawnExample]:
    """Four examples: nothing wrong, and each of the paper's criteria violated by itself."""
    scene = render_scene(
        np.random.default_rng(SEED), SIZE, place="beach", direction="left", tone="warm", count=1
    )
    mask = scene.masks[0]
    foreground = Image.fromarray(np.dstack([scene.image, 255 * mask.astype(np.uint8)]))
    warm, cool = (
        paint_scene(replace(scene.plan, elements=(), tone=tone), SIZE).image
        for tone in ("warm", "cool")
    )
    spoilt = [
        (scene.image, "Good in every way: the object is intact, stands on the ground, and its "
         "shadow fits the light."),
        (_pasted(scene.image, mask, cool), "Scene harmony is poor: the object floats, casts no "
         "shadow, and has another light than its surroundings."),
        (_bent(scene.image, mask, warm), "Object fidelity is poor: the object has another shape, "
         "and details are gone."),
        (_worn(scene.image), "Image quality is poor: blurred and noisy, whatever it shows."),
    ]  # fmt: skip
    return [DrawnExample(foreground, Image.fromarray(image), text) for image, text in spoilt]


def _pasted(scene: np.ndarray, mask: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The object above the ground of an empty scene of another light."""
    lifted = -round(0.14 * SIZE)
    where = np.roll(mask, lifted, axis=0)[..., None]
    return np.where(where, np.roll(scene, lifted, axis=0), empty)


def _bent(scene: np.ndarray, mask: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The object in waves and without detail, where it stood."""
    down, across = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    waved = across + 0.03 * SIZE * np.sin(down / 17), down + 0.012 * SIZE * np.sin(across / 9)
    smooth = cv2.bilateralFilter(scene, 15, 120, 15)
    bent = cv2.remap(smooth, *waved, cv2.INTER_LINEAR)
    where = cv2.remap(mask.astype(np.float32), *waved, cv2.INTER_LINEAR)[..., None]
    ground = np.where(cv2.dilate(mask.astype(np.uint8), np.ones((5, 5)))[..., None], empty, scene)
    return (where * bent + (1 - where) * ground).astype(np.uint8)


def _worn(scene: np.ndarray) -> np.ndarray:
    """The whole scene blurred, with noise."""
    noise = np.random.default_rng(SEED).normal(0, 16, scene.shape)
    blurred = cv2.GaussianBlur(scene, (0, 0), SIZE / 60)
    return np.clip(blurred + noise, 0, 255).astype(np.uint8)
