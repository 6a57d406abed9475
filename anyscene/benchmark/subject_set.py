"""Subjects: a folder of photos for each, a class noun, and prompts. No torch here.

    FOLDER/NAME/*.jpg, .png, .webp    photos; NAME_mask.png beside one, or its alpha, cuts it out
    FOLDER/subjects.yaml              nouns and prompts, or else
    FOLDER/prompts_and_classes.txt    the same as DreamBooth's data set has them

subjects.yaml:

    prompts: ["a {subject} in the snow", "a {subject} on the beach"]    # of all without their own
    subjects:
      mug: {noun: mug}
      rex: {noun: dog, prompts: ["a {subject} in a chef outfit"]}
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageOps

from anyscene.benchmark.sources import chance
from anyscene.errors import InputError

DREAMBOOTH_NAME, YAML_NAME = "prompts_and_classes.txt", "subjects.yaml"
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
MASK_ENDINGS = ("_mask.png", ".mask.png")
LIVE = ("cat", "dog")
"""Classes of DreamBooth's data set that its "Live Subject Prompts" are for."""

NAME = re.compile(r"\w[\w.-]*")
JOINT = "--"  # between the names of a pair
PLACE = "{0}"  # of a subject in a template, {1} of a second one
WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Subject:
    """One thing, pet or person to be shown in other scenes."""

    name: str
    noun: str  # its class, as prompts call it
    photos: tuple[Path, ...]  # sorted
    prompts: tuple[str, ...]  # templates, {0} stands for the subject


def read_subjects(folder: Path) -> list[Subject]:
    """The subjects of a folder by name.

    Raises:
        InputError: no list of subjects, one without photos, noun or prompts; the thing is named.
    """
    if (folder / YAML_NAME).is_file():
        listed = _from_yaml(folder / YAML_NAME)
    elif (folder / DREAMBOOTH_NAME).is_file():
        listed = _from_dreambooth(folder / DREAMBOOTH_NAME)
    else:
        raise InputError(
            f"--subjects {folder} has neither {YAML_NAME} nor {DREAMBOOTH_NAME}, which name the "
            "subjects' classes and prompts"
        )
    if not listed:
        raise InputError(f"--subjects {folder} names no subject")
    subjects = []
    for name, (noun, prompts) in sorted(listed.items()):
        if not NAME.fullmatch(name):
            raise InputError(f"subject {name!r} must be letters, digits, '.', '_' and '-' only")
        if JOINT in name:
            raise InputError(f"subject {name!r} must not have {JOINT!r} in it: it joins two names")
        photos = photos_of(folder / name)
        if not photos:
            raise InputError(f"subject {name} has no photo in {folder / name}")
        if not prompts:
            raise InputError(f"subject {name} has no prompts: give it, or all, some in {YAML_NAME}")
        subjects.append(Subject(name, noun, photos, prompts))
    return subjects


def photos_of(folder: Path) -> tuple[Path, ...]:
    """The photos in a folder, without their masks, sorted."""
    if not folder.is_dir():
        return ()
    return tuple(
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in ENDINGS and not path.name.endswith(MASK_ENDINGS)
    )


def read_photo(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """A photo, upright, RGB, and its mask (L, 255 on the subject) if there is one.

    The mask is a file beside the photo, or its alpha unless that is opaque everywhere; a photo with
    alpha is put on white.
    Raises `InputError` where a file cannot be read, or the two differ in size.
    """
    photo = _read(path)
    mask = None
    for ending in MASK_ENDINGS:
        beside = path.with_name(path.stem + ending)
        if beside.is_file():
            mask = _read(beside).convert("L")
            if mask.size != photo.size:
                raise InputError(f"{beside} is {mask.size} pixels, its photo {photo.size}")
    if photo.has_transparency_data:
        cut = photo.convert("RGBA")
        alpha = cut.getchannel("A")
        if mask is None and alpha.getextrema()[0] < 255:
            mask = alpha
        photo = Image.alpha_composite(Image.new("RGBA", cut.size, (*WHITE, 255)), cut)
    return photo.convert("RGB"), mask


def pair_templates(templates: Sequence[str]) -> list[str]:
    """Templates that name a place, for two subjects: `a {0} in the snow` gives `a {0} and a {1} in
    the snow`; those that say what the subject looks like are left out."""
    return [
        f"a {{0}} and a {{1}}{template[len('a {0}') :]}"
        for template in templates
        if template.startswith("a {0} ")
    ]


def choose_pairs(
    subjects: Sequence[Subject], count: int, seed: int
) -> list[tuple[Subject, Subject]]:
    """Pairs of subjects of different nouns, in an order drawn from the seed.

    Raises `InputError` where there are fewer than `count`.
    """
    pairs = [(one, two) for one, two in combinations(subjects, 2) if one.noun != two.noun]
    if len(pairs) < count:
        raise InputError(f"--pairs {count}: there are {len(pairs)} pairs of different nouns")
    pairs.sort(key=lambda pair: chance(seed, "pair", pair[0].name, pair[1].name))
    return pairs[:count]


Listed = dict[str, tuple[str, tuple[str, ...]]]
"""Noun and templates by subject."""


def _from_yaml(path: Path) -> Listed:
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not isinstance(values.get("subjects"), dict):
        raise InputError(f"{path} must have `subjects:`, and under it `NAME: {{noun: ...}}`")
    common = values.get("prompts", [])
    listed = {}
    for name, own in values["subjects"].items():
        if not isinstance(own, dict) or not isinstance(own.get("noun"), str):
            raise InputError(f"{path}: subject {name} must have a noun, such as {{noun: dog}}")
        listed[str(name)] = own["noun"], _templates(own.get("prompts", common), path)
    return listed


def _templates(prompts: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise InputError(f"{path}: prompts must be a list of texts")
    for text in prompts:
        if text.count("{subject}") != 1 or set("{}") & set(text.replace("{subject}", "")):
            raise InputError(
                f"{path}: prompt {text!r} must have {{subject}} in it, once, and no other brace"
            )
    return tuple(text.replace("{subject}", PLACE) for text in prompts)


def _from_dreambooth(path: Path) -> Listed:
    """`NAME,NOUN` lines, and two Python lists of `'a {0} {1} ...'.format(token, noun)`."""
    classes, _, prompts = path.read_text().partition("\nPrompts")
    rows = [line.split(",") for line in classes.splitlines() if line.count(",") == 1]
    objects, _, live = prompts.partition("Live Subject Prompts")
    lists = [
        tuple(
            text.replace("{0} {1}", PLACE)
            for text in re.findall(r"'([^']*\{0\} \{1\}[^']*)'\.format", part)
        )
        for part in (objects, live)
    ]
    return {name: (noun, lists[noun in LIVE]) for name, noun in rows if name != "subject_name"}


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as an image: {reason}") from None
