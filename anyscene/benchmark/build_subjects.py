"""`anyscene benchmark build --subjects`: photos of subjects -> a frozen subject set."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyscene.benchmark.card import subject_card
from anyscene.benchmark.freeze import freeze, record_of, seal
from anyscene.benchmark.scenes import (
    PAIR,
    SUBJECT,
    SUBJECTS,
    Benchmark,
    BenchmarkScene,
    SceneElement,
    SceneSubject,
)
from anyscene.benchmark.subject_set import (
    JOINT,
    Subject,
    choose_pairs,
    pair_templates,
    read_photo,
    read_subjects,
)
from anyscene.compositing.compose import Placement, compose
from anyscene.compositing.matting import Matting, cut_out, load_matting
from anyscene.errors import InputError
from anyscene.files import sha256_of
from data_prep.preparation import tool_versions

ROOMS = {SUBJECT: ((0.5, 0.6, 0.6),), PAIR: ((0.27, 0.42, 0.5), (0.73, 0.42, 0.5))}
"""By layout, for each subject: x of its centre, greatest width and height, of the canvas."""

FOOT = 0.9  # y of an element's lower edge, of the canvas


@dataclass(frozen=True)
class SubjectSettings:
    """What decides about a subject set, beside its photos."""

    pixels: int = 512  # a side of the canvases
    prompts: int | None = None  # of each subject, the first ones; None: all
    pairs: int = 0  # pairs of subjects of different nouns, for scenes of two
    seed: int = 0
    matting: str | None = None  # model that cuts out subjects without mask or alpha

    def check(self) -> None:
        """Raises `InputError` for values that cannot work."""
        for name, least in (("pixels", 8), ("prompts", 1), ("pairs", 0), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} {value} must be at least {least}")


def build_subjects(
    source: Path, out: Path, settings: SubjectSettings, *, overwrite: bool = False
) -> Benchmark:
    """Write the subject set of the folder `source` to `out`, whole or not at all.

    Raises:
        InputError: settings or a folder that cannot be used, or `out` holds something else.
        DamageError: `out` was built with these arguments but has changed.
    """
    settings.check()
    subjects = read_subjects(source)
    choose_pairs(subjects, settings.pairs, settings.seed)
    matting = None if settings.matting is None else load_matting(settings.matting)
    arguments = {
        "settings": asdict(settings),
        "source": SUBJECTS,
        "subjects_sha256": _checksum(subjects),
        "tools": tool_versions(("numpy", "pillow")),
    }
    return freeze(
        out,
        arguments,
        lambda part: _write(part, subjects, settings, matting, arguments),
        overwrite=overwrite,
    )


def _checksum(subjects: Sequence[Subject]) -> str:
    """Of the photos, masks, nouns and prompts."""
    digest = hashlib.sha256()
    for subject in subjects:
        digest.update(repr((subject.name, subject.noun, subject.prompts)).encode())
        for path in sorted(subject.photos[0].parent.iterdir()):
            if path.is_file():
                digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _write(
    folder: Path,
    subjects: Sequence[Subject],
    settings: SubjectSettings,
    matting: Matting | None,
    arguments: dict[str, Any],
) -> None:
    for name in ("canvas", "masks", "elements"):
        (folder / name).mkdir(parents=True)
    listed: dict[str, Any] = {}
    cut_outs = {}
    for subject in subjects:
        cut_outs[subject.name] = _cut_out(subject, matting)
        photos = [_copy(path, folder, subject.name, n) for n, path in enumerate(subject.photos)]
        cut = cut_outs[subject.name] is not None
        listed[subject.name] = {"noun": subject.noun, "photos": photos, "cut_out": cut}
    scenes: list[BenchmarkScene] = []
    groups: list[tuple[Subject, ...]] = [(subject,) for subject in subjects]
    groups += choose_pairs(subjects, settings.pairs, settings.seed)
    for group in groups:
        own = [cut_outs[subject.name] for subject in group]
        scenes += _scenes(folder, group, own, settings)
    record = record_of(scenes, arguments) | {SUBJECTS: listed}
    seal(folder, scenes, record, subject_card(record))


def _cut_out(subject: Subject, matting: Matting | None) -> Image.Image | None:
    """The subject of its first photo that has a mask, RGBA, cropped; None where nothing cuts it
    out. Without a mask `matting` cuts it out of its first photo."""
    for path in subject.photos:
        photo, mask = read_photo(path)
        if mask is None:
            continue
        box = Image.fromarray(np.asarray(mask) >= 128).getbbox()
        if box is not None:
            photo.putalpha(mask)
            return photo.crop(box)
    if matting is None:
        return None
    return cut_out(read_photo(subject.photos[0])[0], matting, str(subject.photos[0]))


def _copy(path: Path, folder: Path, name: str, number: int) -> str:
    """Keep a photo as it is; returns its place in the folder."""
    kept = f"{SUBJECTS}/{name}/{number:02d}{path.suffix.lower()}"
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / kept)
    return kept


def _scenes(
    folder: Path,
    group: Sequence[Subject],
    cut_outs: Sequence[Image.Image | None],
    settings: SubjectSettings,
) -> list[BenchmarkScene]:
    """A scene for each prompt of the first subject, all of one canvas."""
    layout = SUBJECT if len(group) == 1 else PAIR
    name = JOINT.join(subject.name for subject in group)
    whole = [image for image in cut_outs if image is not None]
    files: dict[str, str] = {}
    elements: list[SceneElement] = []
    if len(whole) == len(group):
        files, elements = _composite(folder, name, group, whole, layout, settings.pixels)
    templates = list(group[0].prompts)
    if layout == PAIR:
        templates = pair_templates(templates)
        if not templates:
            raise InputError(f"--pairs: no prompt of {group[0].name} is `a {{subject}} PLACE`")
    return [
        BenchmarkScene(
            scene_id=f"{name}-{number:02d}",
            layout=layout,
            prompt=template.format(*(subject.noun for subject in group)),
            height=settings.pixels,
            width=settings.pixels,
            canvas=files.get("canvas"),
            mask=files.get("masks"),
            elements_map=files.get("elements"),
            elements=elements,
            real=None,
            source_images=[],
            licences=[],
            truth=None,
            subjects=[SceneSubject(name=one.name, noun=one.noun) for one in group],
            subject_prompt=template,
        )
        for number, template in enumerate(templates[: settings.prompts])
    ]


def _composite(
    folder: Path,
    name: str,
    group: Sequence[Subject],
    cut_outs: Sequence[Image.Image],
    layout: str,
    pixels: int,
) -> tuple[dict[str, str], list[SceneElement]]:
    """Write canvas, mask and element numbers; returns their places and the elements."""
    size = (pixels, pixels)
    placements = [
        _placement(image, *room) for image, room in zip(cut_outs, ROOMS[layout], strict=True)
    ]
    canvas = compose(placements, size)
    numbers = np.zeros(size, np.uint8)
    elements = []
    for number, (subject, placement) in enumerate(zip(group, placements, strict=True), start=1):
        alone = compose([placement], size).getchannel("A")
        shown = np.asarray(alone) >= 128
        numbers[shown] = number
        left, top, right, bottom = alone.getbbox() or (0, 0, 0, 0)
        elements.append(
            SceneElement(
                category=subject.noun,
                box_xywh=[left, top, right - left, bottom - top],
                area_share=float(shown.mean()),
                image_id=0,
                annotation_id=number,
            )
        )
    files = {kind: f"{kind}/{name}.png" for kind in ("canvas", "masks", "elements")}
    pictures = (canvas, canvas.getchannel("A"), Image.fromarray(numbers))
    for kind, picture in zip(files, pictures, strict=True):
        picture.save(folder / files[kind])
    return files, elements


def _placement(image: Image.Image, x: float, width: float, height: float) -> Placement:
    """As large as its room allows, standing on the line `FOOT`."""
    tall = min(height, width * image.height / image.width)
    return Placement(image, x, FOOT - tall / 2, tall)
