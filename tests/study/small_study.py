"""Small studies for tests: images of noise, manifests, a protocol, a folder and its links."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from anyscene.files import sha256_of
from anyscene.manifest import MANIFEST_VERSION, GenerationLine, append_line
from anyscene.study.create import create_study
from anyscene.study.plan import Plan, plan_study
from anyscene.study.protocol import Criterion, Exclusion, Protocol
from anyscene.study.sources import read_sources

METHODS = ("smooth_method", "noisy_method")  # of one grey, and of noise: very different files
PROTOCOL = Protocol(
    name="small",
    title="A small study",
    criteria=(
        Criterion("quality", "Quality", "How good is it?"),
        Criterion("fidelity", "Fidelity", "Is it the same?"),
    ),
    foregrounds=3,
    prompts=2,
    images_per_prompt=1,
    sets=3,
    annotators=3,
    ratings_per_image=2,
    consent="You may stop at any time.\n\nWe store your answers.",
    instructions="Look at the picture.\n\nAnswer two questions.",
    attention_checks=1,
    repeats=1,
    exclusion=Exclusion(max_failed_checks=0, min_median_seconds=1.0),
    seed=5,
)


def generation_line(**known: Any) -> GenerationLine:
    """A line of a manifest; fields that are not given are empty."""
    empty: dict[str, Any] = dict.fromkeys(GenerationLine.__annotations__)
    return cast(GenerationLine, {**empty, "version": MANIFEST_VERSION, **known})


def write_method(
    folder: Path, method: str, protocol: Protocol = PROTOCOL, *, size: int = 48
) -> Path:
    """Images, canvases and manifest of a method, whose name is in the metadata of every file."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    told = PngInfo()
    told.add_text("method", method)
    for scene in range(protocol.foregrounds):
        canvas = np.full((size, size, 4), (200, 40 * scene, 90, 255), np.uint8)
        canvas[:, : size // 2] = (1, 2, 3, 0)  # transparent, with something hidden
        canvas_path = folder / f"canvas-{scene}.png"
        Image.fromarray(canvas).save(canvas_path)
        for prompt in range(protocol.prompts):
            for seed in range(10, 10 + protocol.images_per_prompt):
                noise = 0 if method == METHODS[0] else 60
                values = rng.normal(100 + 20 * scene + 10 * prompt, noise, (size, size, 3))
                path = folder / f"{scene}-{prompt}-{seed}.png"
                image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
                image.save(path, pnginfo=told, icc_profile=method.encode())
                line = generation_line(
                    scene_id=f"scene-{scene}",
                    prompt=f"thing {scene} in place {prompt}",
                    seed=seed,
                    method=method,
                    canvas=canvas_path.name,
                    canvas_sha256=sha256_of(canvas_path),
                    width=size,
                    height=size,
                    image=path.name,
                    sha256=sha256_of(path),
                )
                append_line(folder / "manifest.jsonl", line)
    return folder / "manifest.jsonl"


def make_plan(
    folder: Path, protocol: Protocol = PROTOCOL, methods: Sequence[str] = METHODS, size: int = 48
) -> Plan:
    """Manifests of some methods below a folder, and the plan of a study of them."""
    manifests = [
        (None, write_method(folder / f"images_of_{method}", method, protocol, size=size))
        for method in methods
    ]
    return plan_study(protocol, *read_sources(manifests, protocol))


@dataclass(frozen=True)
class Links:
    """The secrets of a study."""

    people: dict[str, str]  # token by pseudonym
    admin: str


def make_study(
    folder: Path, protocol: Protocol = PROTOCOL, methods: Sequence[str] = METHODS, size: int = 48
) -> tuple[Path, Links]:
    """A study in `folder/study`, and its links."""
    plan = make_plan(folder, protocol, methods, size)
    links = create_study(
        plan, folder / "study", url="http://127.0.0.1:8000", protocol_folder=folder
    )
    return folder / "study", read_links(links)


def read_links(path: Path) -> Links:
    """The tokens of a file of private links."""
    with path.open(newline="") as file:
        tokens = {row["name"]: row["link"].rpartition("/")[2] for row in csv.DictReader(file)}
    return Links(admin=tokens.pop("admin"), people=tokens)
