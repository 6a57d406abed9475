"""`anyscene generate`: prompts and composited foregrounds to images and their manifest.

OUT/images/NAME.png    after blending           OUT/canvas/NAME.png   the composited foreground
OUT/raw/NAME.png       before blending          OUT/masks/NAME.png    its mask, 255 = foreground
OUT/manifest.jsonl     one line an image, written after its files
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from tqdm import tqdm

from anyscene.compositing.matting import Matting, load_matting
from anyscene.config import SampleConfig
from anyscene.export_record import read_export_record
from anyscene.files import sole_use, write_bytes
from anyscene.foregrounds import (
    check_foregrounds,
    foreground_fields,
    image_size,
    read_foreground,
)
from anyscene.image_jobs import (
    Foreground,
    Job,
    Model,
    call_of,
    load_model,
    make_images,
    png,
    versions,
    warn_of_long_prompts,
)
from anyscene.manifest import (
    MANIFEST_VERSION,
    GenerationLine,
    append_line,
    identity,
    read_generation_manifest,
)
from anyscene.models.fit import check_channels
from anyscene.scene_list import MAX_MICRO_BATCH, GenerateSettings, Scene, check_request, sampling

MANIFEST_NAME = "manifest.jsonl"
LOCK = ".lock"


def generate(
    model: str,
    scenes: Sequence[Scene],
    settings: GenerateSettings,
    out: Path,
    matting: Matting | None = None,
) -> list[GenerationLine]:
    """Make what is not in `out` yet, and return the lines of all that was asked for, in order.

    One process at a time works in `out`: another one waits, and begins with what is there then.

    Args:
        model: an export's or a base's folder, or a hub id.
        scenes: what to generate.
        settings: how.
        out: folder of images and manifest.
        matting: cuts elements out of photos without alpha; None: as `settings.matting` says.

    Raises:
        InputError: files, numbers or sizes that cannot be used.
        DamageError: the manifest in `out` is damaged.
    """
    check_request(model, scenes, settings)
    if matting is None and settings.matting is not None:
        matting = load_matting(settings.matting)
    config = sampling(settings, read_export_record(model))
    loaded = load_model(model, settings.dtype, settings.device)
    check_channels(f"model {model}", loaded.pipeline)
    for scene in scenes:
        foreground_fields(loaded, scene, config)  # raises where nothing would come of it
    check_foregrounds(loaded, scenes, settings, matted=matting is not None)
    prompts = [prompt for scene in scenes for prompt in scene.prompts]
    warn_of_long_prompts(loaded, [*prompts, settings.negative_prompt])
    total = settings.images * len(prompts)
    micro_batch = settings.micro_batch or min(MAX_MICRO_BATCH, total)
    jobs = plan(loaded, scenes, settings, config, micro_batch, out, matting)
    manifest, call = out / MANIFEST_NAME, partial(make_images, loaded)
    out.mkdir(parents=True, exist_ok=True)
    with sole_use(out / LOCK):
        made = read_finished(manifest)
        return make_missing(jobs, manifest, made, micro_batch, call, total=total, name="generate")


OneJob = TypeVar("OneJob", bound=Job)


def make_missing(
    jobs: Iterable[OneJob],
    manifest: Path,
    finished: dict[str, GenerationLine],
    micro_batch: int,
    make: Callable[[list[OneJob]], list[tuple[bytes, bytes]]],
    *,
    total: int,
    name: str,
) -> list[GenerationLine]:
    """Make the images whose lines are not `finished`, by calls of one size; all lines, in order.

    A line is added to the manifest when the image's files are beside it. `make` gives the PNG
    files, blended and raw, of jobs of one `call_of`; `total` and `name` are for the bar.
    """
    asked: list[str] = []
    waiting: dict[str, list[OneJob]] = {}
    with tqdm(total=total, unit="image", desc=name, disable=None) as bar:

        def finish(own: list[OneJob]) -> None:
            for job, files in zip(own, make(own), strict=True):
                line = write_files(manifest.parent, job.line, files)
                append_line(manifest, line)
                finished[identity(line)] = line
            bar.update(len(own))

        for job in jobs:
            asked.append(identity(job.line))
            if asked[-1] in finished:
                bar.update()
                continue
            call = call_of(job.line)
            waiting.setdefault(call, []).append(job)
            if len(waiting[call]) == micro_batch:
                finish(waiting.pop(call))
        for own in waiting.values():
            finish(own)
    return [finished[key] for key in asked]


def read_finished(manifest: Path) -> dict[str, GenerationLine]:
    """The lines of a manifest whose images are there, by identity; the last of equal ones."""
    if not manifest.is_file():
        return {}
    return {
        identity(line): line
        for line in read_generation_manifest(manifest)
        if all((manifest.parent / line[key]).is_file() for key in ("image", "image_raw"))
    }


def plan(
    model: Model,
    scenes: Sequence[Scene],
    settings: GenerateSettings,
    config: SampleConfig,
    micro_batch: int,
    out: Path,
    matting: Matting | None = None,
) -> Iterator[Job]:
    """The images asked for, scene by scene; the canvases are written to `out` on the way."""
    path = model.path
    if Path(path).is_dir():
        path = os.path.relpath(Path(path).resolve(), out.resolve())
    common = {
        "version": MANIFEST_VERSION,
        "negative_prompt": settings.negative_prompt,
        "model": path,
        "model_sha256": model.sha256,
        "steps": config.steps,
        "scheduler": type(model.pipeline.scheduler).__name__,
        "guidance_scale": float(config.guidance_scale),
        "dtype": model.dtype,
        "device": model.device_name(),
        "threads": torch.get_num_threads(),
        "micro_batch": micro_batch,
        "versions": versions(),
    }
    for scene in scenes:
        size = image_size(model, scene, settings)
        own: dict[str, Any] = {"scene_id": scene.scene_id, "height": size[0], "width": size[1]}
        own |= foreground_fields(model, scene, config)
        foreground = None
        if scene.guided:
            foreground = read_foreground(scene, size, matting)
            own |= write_canvas(out, scene.scene_id, foreground)
        for prompt in scene.prompts:
            for number in range(settings.images):
                line = {**common, **own, "prompt": prompt, "seed": scene.seed + number}
                yield Job(line, foreground)


def write_canvas(out: Path, scene_id: str, foreground: Foreground) -> dict[str, str]:
    """Write the canvas and its mask; returns their fields. Another canvas gets another name."""
    data = png(torch.cat([foreground.rgb, foreground.alpha]))
    sha256 = hashlib.sha256(data).hexdigest()
    canvas, mask = (f"{kind}/{scene_id}-{sha256[:8]}.png" for kind in ("canvas", "masks"))
    for name, content in ((canvas, data), (mask, png(foreground.alpha))):
        write_bytes(out / name, content)
    return {"canvas": canvas, "canvas_sha256": sha256, "mask": mask}


def write_files(out: Path, asked: Mapping[str, Any], files: tuple[bytes, bytes]) -> GenerationLine:
    """Write the PNG files, blended and raw, of a line; returns it with what is known now."""
    blended, raw = files
    name = f"{asked['scene_id']}-{asked['seed']}-{identity(asked)[:8]}.png"
    made = {
        "image": f"images/{name}",
        "image_raw": f"raw/{name}",
        "sha256": hashlib.sha256(blended).hexdigest(),
        "sha256_raw": hashlib.sha256(raw).hexdigest(),
    }
    write_bytes(out / made["image_raw"], raw)
    write_bytes(out / made["image"], blended)
    line = {key: {**asked, **made}[key] for key in GenerationLine.__annotations__}
    return cast(GenerationLine, line)
