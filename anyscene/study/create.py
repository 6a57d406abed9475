"""`anyscene study create`: from a plan to a study folder, whole or not at all."""

import csv
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from anyscene.errors import InputError
from anyscene.files import part_of
from anyscene.study.examples import DrawnExample, draw_examples
from anyscene.study.images import (
    equalise_sizes,
    read_image,
    write_check,
    write_foreground,
    write_scene,
)
from anyscene.study.plan import Plan
from anyscene.study.protocol import Example
from anyscene.study.records import Contents, Person, Picture
from anyscene.study.sources import Source, foregrounds
from anyscene.study.store import FILE_NAME, IMAGES, Store, token_sha256

LINKS = "links.csv"
ADMIN = "admin"
TOKEN_BYTES = 24  # 192 bits
CHECK_TEXT = "Attention check:\nplease answer “{}”\nto every question"


def check_out(out: Path, *, overwrite: bool) -> None:
    """Raises InputError for a folder that is taken, and in any case for one with answers."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / FILE_NAME).is_file():
        raise InputError(f"{out} is there already and holds no study; name another folder")
    with closing(Store(out)) as store:
        answered = store.answered()
    if answered:
        raise InputError(f"{out} holds a study with {answered} answered items; name another folder")
    if not overwrite:
        raise InputError(f"{out} holds a study without answers; pass --overwrite to replace it")


def create_study(plan: Plan, out: Path, *, url: str, protocol_folder: Path) -> Path:
    """Write the study folder and return the file of private links.

    Args:
        plan: of `plan_study`.
        out: folder; an old one, which `check_out` let pass, is replaced.
        url: address of the server, with which the links begin.
        protocol_folder: what the paths of the protocol's examples are relative to.

    Raises:
        InputError: an image file that is missing or of the wrong size; an old study that got
            answers meanwhile.
        DamageError: an image file that cannot be read or has another checksum.
    """
    out = out.resolve()  # `.` has no name, and a link is not to be replaced
    part = part_of(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part.mkdir(mode=0o700)
    try:
        images = part / IMAGES
        images.mkdir()
        pictures = _write_pictures(plan, images)
        protocol = replace(plan.protocol, examples=_write_examples(plan, images, protocol_folder))
        tokens = {name: secrets.token_urlsafe(TOKEN_BYTES) for name in [*plan.annotators, ADMIN]}
        hashes = {name: token_sha256(token) for name, token in tokens.items()}
        contents = Contents(
            methods=plan.methods,
            pictures=pictures,
            people=[Person(name, hashes[name]) for name in plan.annotators],
            tasks=plan.tasks(),
            admin_sha256=hashes[ADMIN],
            secret=plan.secret.hex(),
        )
        Store.create(part, protocol, contents).close()
        _write_links(part / LINKS, tokens, url)
        _remove_old(out)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out / LINKS


def _remove_old(out: Path) -> None:
    """A study without answers, also not of the time since `check_out`, or an empty folder."""
    if (out / FILE_NAME).is_file():
        with closing(Store(out)) as store:
            answered = store.retire()
        if answered:
            raise InputError(f"{out} has {answered} answered items by now; name another folder")
    shutil.rmtree(out, ignore_errors=True)


def _write_pictures(plan: Plan, folder: Path) -> list[Picture]:
    """Every image and foreground, under its blinded name."""
    jobs: dict[str, Callable[[Path], object]] = {}
    pictures = []
    for number, cell in enumerate(plan.cells):
        for method, source in enumerate(cell.images):
            picture = _picture(plan, plan.image_name(number, method), source)
            pictures.append(picture)
            jobs[picture.name] = partial(_copy_scene, source)
    for check in range(plan.protocol.attention_checks):
        behind = plan.cells[int(plan.name("behind", check), 16) % len(plan.cells)].images[0]
        picture = replace(_picture(plan, plan.check_name(check), behind), method="")
        pictures.append(picture)
        jobs[picture.name] = partial(_draw_check, behind, _check_text(plan, check))
    for scene_id, source in foregrounds(plan.cells).items():
        jobs[plan.name("foreground", scene_id)] = partial(_copy_foreground, source)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = pool.map(lambda name: jobs[name](folder / f"{name}.png"), jobs)
        list(tqdm(done, "images", total=len(jobs), unit="image", disable=None))
    equalise_sizes([folder / f"{picture.name}.png" for picture in pictures])
    return sorted(pictures, key=lambda picture: picture.name)


def _picture(plan: Plan, name: str, source: Source) -> Picture:
    line = source.line
    return Picture(
        name=name,
        method=source.method,
        scene_id=line["scene_id"],
        prompt=line["prompt"],
        seed=line["seed"],
        foreground=plan.name("foreground", line["scene_id"]),
        width=line["width"],
        height=line["height"],
    )


def _read_scene(source: Source) -> Image.Image:
    return read_image(source.image, source.named, source.line["sha256"], source.size)


def _copy_scene(source: Source, path: Path) -> None:
    write_scene(_read_scene(source), path)


def _draw_check(source: Source, text: str, path: Path) -> None:
    write_check(_read_scene(source), text, path)


def _copy_foreground(source: Source, path: Path) -> None:
    line = source.line
    assert line["canvas"] is not None  # see `foregrounds`
    canvas = source.folder / line["canvas"]
    write_foreground(read_image(canvas, source.named, line["canvas_sha256"], source.size), path)


def _check_text(plan: Plan, check: int) -> str:
    labels = {option.value: option.label for option in plan.protocol.options}
    expected = plan.expected(check)
    return CHECK_TEXT.format(expected if plan.protocol.kind == "rating" else labels[expected])


def _write_examples(plan: Plan, folder: Path, protocol_folder: Path) -> tuple[Example, ...]:
    """The examples' images under blinded names; drawn ones where the protocol has none."""
    examples = [_read_example(own, protocol_folder) for own in plan.protocol.examples]
    written = []
    for number, example in enumerate(examples or draw_examples()):
        names = [plan.name("example", number, kind) for kind in ("foreground", "image")]
        write_foreground(example.foreground, folder / f"{names[0]}.png")
        write_scene(example.image, folder / f"{names[1]}.png")
        written.append(Example(names[0], names[1], example.caption))
    return tuple(written)


def _read_example(example: Example, folder: Path) -> DrawnExample:
    foreground, image = (
        read_image(folder / path, "an example") for path in (example.foreground, example.image)
    )
    return DrawnExample(foreground, image, example.caption)


def _write_links(path: Path, tokens: dict[str, str], url: str) -> None:
    """The only place that has the tokens, readable by its owner alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "link"])
        for name, token in tokens.items():
            route = "admin" if name == ADMIN else "s"
            writer.writerow([name, f"{url.rstrip('/')}/{route}/{token}"])
