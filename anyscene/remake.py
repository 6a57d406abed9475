"""`anyscene generate --again`: the images of a manifest made again, and compared."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from tqdm import tqdm

from anyscene.compositing.compose import read_canvas
from anyscene.errors import DamageError, InputError
from anyscene.files import sha256_of, write_bytes
from anyscene.image_jobs import Foreground, Job, Model, call_of, load_model, make_images, versions
from anyscene.manifest import GenerationLine, read_generation_manifest
from anyscene.scene_list import check_model


@dataclass(frozen=True)
class Comparison:
    """An image of a manifest and the same made again."""

    image: str
    equal: bool  # both files, blended and raw
    report: str  # one line


def remake(
    manifest: Path, out: Path | None = None, model: str | None = None, device: str | None = None
) -> list[Comparison]:
    """Make the images of a manifest again, with the recorded settings, in its order.

    Args:
        manifest: of `generate`.
        out: where to write the images; None: they are only compared.
        model: where the model is now; None: where the manifest says.
        device: where to compute; None: where they were made.

    Raises:
        InputError: model, device or canvas that cannot be used, other weights, or `out` is where
            the images are that they are compared with.
        DamageError: the manifest or a canvas is damaged.
    """
    if out is not None and out.resolve() == manifest.parent.resolve():
        raise InputError(f"--out {out} holds the images of {manifest}: choose another folder")
    lines = [*{line["image"]: line for line in read_generation_manifest(manifest)}.values()]
    results: dict[str, Comparison] = {}
    threads = torch.get_num_threads()
    try:
        with tqdm(total=len(lines), unit="image", desc="again", disable=None) as bar:
            for (path, dtype, own), group in groupby(sorted(lines, key=_model_of), _model_of):
                found = model or _find_model(manifest, path)
                loaded = load_model(found, dtype, device or own)
                for call in _calls(list(group)):
                    jobs = [_job(manifest, loaded, line) for line in call]
                    torch.set_num_threads(jobs[0].line["threads"])
                    for job, made in zip(jobs, make_images(loaded, jobs), strict=True):
                        name = job.line["image"]
                        results[name] = _compare(job, made, loaded)
                        if out is not None:
                            write_bytes(out / name, made[0])
                            write_bytes(out / job.line["image_raw"], made[1])
                    bar.update(len(jobs))
    finally:
        torch.set_num_threads(threads)
    return [results[line["image"]] for line in lines]


def _model_of(line: GenerationLine) -> tuple[str, str, str]:
    return line["model"], line["dtype"], line["device"].split()[0]


def _find_model(manifest: Path, path: str) -> str:
    beside = manifest.parent / path
    found = str(beside) if beside.is_dir() else path
    try:
        check_model(found)
    except InputError as error:
        raise InputError(f"{error}; name the MODEL that made {manifest}") from None
    return found


def _calls(lines: Sequence[GenerationLine]) -> Iterator[list[GenerationLine]]:
    """The lines by the calls of the pipeline that make them, at most a micro-batch each."""
    calls: dict[str, list[GenerationLine]] = {}
    for line in lines:
        calls.setdefault(call_of(line), []).append(line)
    for call in calls.values():
        size = call[0]["micro_batch"]
        yield from (call[first : first + size] for first in range(0, len(call), size))


def _job(manifest: Path, model: Model, line: GenerationLine) -> Job:
    if line["model_sha256"] != model.sha256:
        raise InputError(
            f"{line['image']} of {manifest} was made by a model with sha256 "
            f"{line['model_sha256'][:16]}..., but {model.path} has {model.sha256[:16]}...: "
            "name the one that made it"
        )
    return Job(dict(line), _foreground(manifest, line))


def _foreground(manifest: Path, line: GenerationLine) -> Foreground | None:
    if line["canvas"] is None:
        return None
    path = manifest.parent / line["canvas"]
    if not path.is_file():
        raise InputError(f"canvas {path} of {manifest} is missing")
    if sha256_of(path) != line["canvas_sha256"]:
        raise DamageError(f"canvas {path} does not have the sha256 that {manifest} says")
    rgb, alpha = read_canvas(path, (line["height"], line["width"]))
    return Foreground(rgb[0], alpha[0])


def _compare(job: Job, made: tuple[bytes, bytes], model: Model) -> Comparison:
    line = job.line
    digests = [hashlib.sha256(data).hexdigest() for data in made]
    equal = digests == [line["sha256"], line["sha256_raw"]]
    if equal:
        return Comparison(line["image"], True, f"{line['image']}: equal")
    now = {"device": model.device_name(), "versions": versions()}
    changed = [f"{key} was {line[key]}, is {now[key]}" for key in now if line[key] != now[key]]
    why = "; ".join(changed) or "device and versions are the recorded ones"
    return Comparison(line["image"], False, f"{line['image']}: NOT equal ({why})")
