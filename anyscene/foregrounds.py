"""The composited foregrounds of scenes: what can be wrong with them, their size, how they guide."""

from collections.abc import Iterable, Sequence
from typing import Any

from anyscene.compositing.compose import (
    ASPECT_TOLERANCE,
    canvas_size,
    canvas_tensors,
    check_canvas,
    check_element,
    compose,
    parse_element,
    read_canvas,
)
from anyscene.compositing.matting import Matting
from anyscene.config import Blend, SampleConfig
from anyscene.errors import InputError
from anyscene.image_jobs import Foreground, Model
from anyscene.layout_settings import layout_record
from anyscene.scene_list import GenerateSettings, Scene


def check_foregrounds(
    model: Model, scenes: Iterable[Scene], settings: GenerateSettings, *, matted: bool = False
) -> None:
    """Raises `InputError`, which names the scene, where a canvas or an element cannot be read or
    has no alpha, or its place or size is impossible.

    `matted` says that photos are cut out. Pixels are not read: that would take as long as using
    them, and a late scene's mistake shall be told before hours are spent on those before it.
    """
    for scene in scenes:
        try:
            size = image_size(model, scene, settings)
            if scene.canvas is not None:
                check_canvas(scene.canvas, size)
            for element in scene.elements:
                check_element(element, size, matted=matted)
        except InputError as error:
            raise InputError(f"scene {scene.scene_id}: {error}") from None


def foreground_fields(model: Model, scene: Scene, config: SampleConfig) -> dict[str, Any]:
    """How the foreground guides; all off where there is none.

    Raises:
        InputError: nothing would come of the foreground with this model.
    """
    if not scene.guided:
        off = dict.fromkeys(("canvas", "canvas_sha256", "mask", "layout", "blend"))
        return {**off, "method": "text", "foreground_guidance_scale": 1.0}
    if not model.guided and not config.layout.known_latent:
        raise InputError(
            f"{model.path} has no Foreground Injection Module (controlnet/), so nothing would come "
            "of the foreground: give an export that has one, or --layout known_latent=1"
        )
    blend = {"mode": config.blend.name, "k": float(config.blend_k)}
    return {
        "method": "anyscene" if model.guided else "known_latent",
        "foreground_guidance_scale": float(config.foreground_guidance_scale),
        "layout": layout_record(config.layout),
        "blend": None if config.blend is Blend.none else blend,
    }


def image_size(model: Model, scene: Scene, settings: GenerateSettings) -> tuple[int, int]:
    """(height, width): as given, otherwise the model's own area in the canvas' shape; a side that
    is not given follows the other one and the canvas.

    Raises `InputError` where no size, or not the one that is given, has the canvas' shape.
    """
    native, asked = model.native_size, (settings.height, settings.width)
    if scene.canvas is None:
        return asked[0] or native, asked[1] or native
    shape = canvas_size(scene.canvas)
    if asked[0] and asked[1] and _distortion(asked, shape) <= ASPECT_TOLERANCE:
        return asked[0], asked[1]
    largest = 2 * max(native, *(side or 0 for side in asked))
    sizes = _sizes_of(shape, model.multiple, largest)
    area = (asked[0] or asked[1] or native) * (asked[1] or asked[0] or native)
    sizes.sort(key=lambda size: abs(size[0] * size[1] - area))
    free = [s for s in sizes if asked[0] in (None, s[0]) and asked[1] in (None, s[1])]
    if free:
        return free[0]
    wanted = " ".join(f"--{n} {v}" for n, v in zip(("height", "width"), asked, strict=True) if v)
    canvas = f"{scene.canvas} is {shape[1]} x {shape[0]} pixels (width x height), a shape that"
    if wanted and sizes:
        raise InputError(
            f"{canvas} {wanted} does not give in multiples of {model.multiple}; leave it out, or "
            f"give --height {sizes[0][0]} --width {sizes[0][1]}"
        )
    raise InputError(
        f"{canvas} no image of about {native} pixels a side, in multiples of {model.multiple}, "
        "has: pad it with transparent pixels, to a square for instance"
    )


def _sizes_of(shape: tuple[int, int], multiple: int, largest: int) -> list[tuple[int, int]]:
    """All (height, width) in multiples, to the largest side, of about a shape's aspect."""
    sizes = []
    for height in range(multiple, largest + 1, multiple):
        width = max(1, round(height * shape[1] / shape[0] / multiple)) * multiple
        if width <= largest and _distortion((height, width), shape) <= ASPECT_TOLERANCE:
            sizes.append((height, width))
    return sizes


def _distortion(size: Sequence[Any], shape: tuple[int, int]) -> float:
    """By how much of itself the aspect of a size differs from that of a shape."""
    return abs(size[1] * shape[0] / (size[0] * shape[1]) - 1)


def read_foreground(
    scene: Scene, size: tuple[int, int], matting: Matting | None = None
) -> Foreground:
    """The canvas file, or the canvas that the elements make; `matting` cuts photos out."""
    if scene.canvas is not None:
        rgb, alpha = read_canvas(scene.canvas, size)
        return Foreground(rgb[0], alpha[0])
    placements = [parse_element(element, matting) for element in scene.elements]
    foreground = Foreground(*canvas_tensors(compose(placements, size)))
    if not (foreground.alpha > 0.5).any():
        where = "on the canvas their alpha is 0.5 or less everywhere"
        raise InputError(f"the elements of scene {scene.scene_id} leave no foreground: {where}")
    return foreground
