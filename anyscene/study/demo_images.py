"""Images for the demo of a study: drawn scenes, spoilt by each "method" in a known way.

There is no model behind them, and the manifests say so.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from anyscene.files import replace_file, sha256_of
from anyscene.manifest import MANIFEST_VERSION, GenerationLine
from anyscene.study.protocol import Protocol
from data_prep.demo_places import DIRECTIONS, PLACES
from data_prep.demo_plan import TONES, ScenePlan
from data_prep.demo_render import paint_scene, render_scene
from data_prep.demo_sprites import COLOURS

SIZE = 192  # px
BLUR = 5  # px along a side that become one
PLAIN_PLACE = "meadow"  # cut-outs come from: it leaves colours nearly as they are
NO_MODEL = "none: drawn"


@dataclass(frozen=True)
class DrawnScene:
    """A foreground in a place and light of its prompt."""

    scene_id: str
    plan: ScenePlan
    seed: int
    canvas: Image.Image  # RGBA, cut out of a scene in another place and light


def matched(scene: DrawnScene) -> Image.Image:
    """The elements in the light of the scene, with their shadows."""
    return Image.fromarray(paint_scene(scene.plan, SIZE).image)


def pasted(scene: DrawnScene) -> Image.Image:
    """The cut-outs as they are on the empty place: no shadow, the light of another scene."""
    empty = paint_scene(replace(scene.plan, elements=()), SIZE).image
    image = Image.fromarray(empty)
    image.paste(scene.canvas, mask=scene.canvas.getchannel("A"))
    return image


def recoloured(scene: DrawnScene) -> Image.Image:
    """In the right light, but the elements have other colours and sizes."""
    others = np.roll(list(COLOURS), -3).tolist()
    changed = dict(zip(COLOURS, others, strict=True))
    elements = tuple(
        replace(one, rgb=COLOURS[changed[one.colour]], height=0.75 * one.height)
        for one in scene.plan.elements
    )
    return Image.fromarray(paint_scene(replace(scene.plan, elements=elements), SIZE).image)


def blurred(scene: DrawnScene) -> Image.Image:
    """`matched` without detail."""
    small = matched(scene).resize((SIZE // BLUR, SIZE // BLUR), Image.Resampling.BOX)
    return small.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


METHODS: dict[str, Callable[[DrawnScene], Image.Image]] = {
    "matched": matched,
    "pasted": pasted,
    "recoloured": recoloured,
    "blurred": blurred,
}


def draw_methods(folder: Path, protocol: Protocol) -> dict[str, Path]:
    """Images, canvases and a manifest for each method; returns the manifests."""
    scenes = list(draw_scenes(protocol))
    manifests = {method: folder / method / "manifest.jsonl" for method in METHODS}
    for method, path in manifests.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_write(scene, path.parent, method)) + "\n" for scene in scenes]
        replace_file(path, lambda part, lines=lines: part.write_text("".join(lines)))
    return manifests


def draw_scenes(protocol: Protocol) -> Iterator[DrawnScene]:
    """What the methods are given: a function of the protocol's numbers and seed."""
    for number in range(protocol.foregrounds):
        rng = np.random.default_rng([protocol.seed, number])
        base = render_scene(rng, SIZE, place=PLAIN_PLACE)
        alpha = np.any(base.masks, axis=0)[..., None] * np.uint8(255)
        canvas = Image.fromarray(np.concatenate([base.image, alpha], axis=2))
        places = rng.permutation([place for place in PLACES if place != PLAIN_PLACE])
        for place in places[: protocol.prompts].tolist():
            plan = replace(
                base.plan,
                place=place,
                direction=str(rng.choice(DIRECTIONS)),
                tone=str(rng.choice(list(TONES))),
            )
            for seed in range(protocol.images_per_prompt):
                own = replace(plan, texture_seed=plan.texture_seed + seed)
                yield DrawnScene(f"toys{number:02d}", own, seed, canvas)


def _write(scene: DrawnScene, folder: Path, method: str) -> GenerationLine:
    """Files of an image and its canvas, and their line."""
    canvas = f"{scene.scene_id}-canvas.png"
    name = f"{scene.scene_id}-{scene.plan.place}-{scene.seed}.png"
    scene.canvas.save(folder / canvas)
    METHODS[method](scene).save(folder / name)
    checksum = sha256_of(folder / name)
    return GenerationLine(
        version=MANIFEST_VERSION,
        scene_id=scene.scene_id,
        prompt=scene.plan.captions()[0],
        negative_prompt="",
        seed=scene.seed,
        method=method,
        model=NO_MODEL,
        model_sha256="",
        canvas=canvas,
        canvas_sha256=sha256_of(folder / canvas),
        mask=None,
        height=SIZE,
        width=SIZE,
        steps=0,
        scheduler="",
        guidance_scale=0.0,
        foreground_guidance_scale=0.0,
        layout=None,
        blend=None,
        dtype="",
        device="cpu",
        threads=1,
        micro_batch=1,
        image=name,
        image_raw=name,
        sha256=checksum,
        sha256_raw=checksum,
        versions={},
    )
