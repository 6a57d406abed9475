"""`anyscene benchmark run`: the images of one method on every scene, and their manifest.

OUT/manifest.jsonl is a generation manifest as `anyscene generate` writes it, so that the study and
every other reader takes it. A run divided over jobs writes `manifest-00000-of-00004.jsonl` each;
the one that finishes last joins them. `run.json` says what the folder is of. All runs of a
benchmark get the same scenes and seeds.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from anyscene.benchmark.methods import NEEDS_SUBJECTS
from anyscene.benchmark.methods.base import Method, MethodSettings, SceneJob, method_class
from anyscene.benchmark.run_checks import WHOLE, Share, check_fine_tune, check_run
from anyscene.benchmark.runs import RUN_NAME
from anyscene.benchmark.scenes import Benchmark, BenchmarkScene
from anyscene.errors import DamageError, InputError
from anyscene.export_record import read_export_record
from anyscene.files import replace_file, write_json
from anyscene.foregrounds import check_foregrounds, image_size, read_foreground
from anyscene.generate import MANIFEST_NAME, make_missing, read_finished, write_canvas
from anyscene.image_jobs import Model, load_model, versions
from anyscene.manifest import MANIFEST_VERSION, GenerationLine
from anyscene.scene_list import (
    MAX_MICRO_BATCH,
    GenerateSettings,
    Scene,
    sampling,
)

MACHINE = ("device", "threads", "versions", "model")
"""Fields that may differ between the jobs of one run."""


def run(
    benchmark: Benchmark,
    name: str,
    model: str,
    out: Path,
    settings: GenerateSettings,
    *,
    share: Share = WHOLE,
    controlnet: Path | None = None,
    sam: Path | None = None,
    fine_tunes: Path | None = None,
    fine_tune: Sequence[str] = (),
) -> list[GenerationLine]:
    """Make what is not in `out` yet of one method's images; returns the lines of this share.

    Args:
        benchmark: the scenes.
        name: of the method, in `METHODS`.
        model: an export (of `anyscene`) or a base: its folder or hub id.
        out: folder of images and manifest.
        settings: `images` is the number of generation seeds a scene.
        share: which part of the images.
        controlnet, sam: of `controlnet_canny`; of `inpaint_anything`, to find the masks itself.
        fine_tunes: of subject-driven methods, where they are kept; None: `out`/fine_tunes.
        fine_tune: of the same, KEY=VALUE changes of the papers' settings.

    Raises:
        InputError: a model, method or setting that cannot be used.
        DamageError: a manifest in `out` is damaged.
    """
    check_run(benchmark, name, model, settings, share, controlnet, sam)
    check_fine_tune(name, fine_tune, fine_tunes)
    loaded = load_model(model, settings.dtype, settings.device)
    config = sampling(settings, read_export_record(model))
    given = MethodSettings(
        replace(config, micro_batch=settings.micro_batch or MAX_MICRO_BATCH),
        settings.negative_prompt,
        controlnet,
        sam,
        benchmark,
        fine_tunes or out / "fine_tunes",
        tuple(fine_tune),
    )
    method = method_class(name)(loaded, given)
    plan = Planner(benchmark, name, loaded, method, settings, out)
    check_foregrounds(loaded, plan.scenes_of(share), settings)
    claim(out, plan.record(sam))
    manifest = out / share.manifest_name
    lines = make_missing(
        plan.jobs(share),
        manifest,
        read_finished(manifest),
        plan.micro_batch,
        method.make,
        total=len(plan.images_of(share)),
        name=name,
    )
    if share.count > 1:
        join_manifests(out, share.count, plan.images())
    return lines


@dataclass(frozen=True)
class Planner:
    """The images of a run, as far as their lines are known before they are made."""

    benchmark: Benchmark
    name: str
    model: Model
    method: Method
    settings: GenerateSettings
    out: Path

    @property
    def micro_batch(self) -> int:
        """Images a network call, whatever the share: part of what an image is made with."""
        return self.settings.micro_batch or MAX_MICRO_BATCH

    def images(self) -> list[tuple[BenchmarkScene, int]]:
        """Scene and seed of every image: scene after scene, its seeds rising."""
        scenes, repeats = self.benchmark.scenes, range(self.settings.images)
        return [(scene, n + len(scenes) * k) for n, scene in enumerate(scenes) for k in repeats]

    def images_of(self, share: Share) -> list[tuple[BenchmarkScene, int]]:
        """Those of a share: every so manyth, or of a method that learns subjects all those of every
        so manyth subject, so that each is learnt by one job."""
        images = self.images()
        if self.name not in NEEDS_SUBJECTS:
            return images[share.index :: share.count]
        groups: dict[str, int] = {}
        numbers = [groups.setdefault(str(s.get("subjects")), len(groups)) for s, _ in images]
        shown = zip(images, numbers, strict=True)
        return [image for image, number in shown if number % share.count == share.index]

    def scenes_of(self, share: Share) -> list[Scene]:
        """The scenes of a share as `generate` has them, each once."""
        own = {scene["scene_id"]: self._scene(scene) for scene, _ in self.images_of(share)}
        return list(own.values())

    def _scene(self, scene: BenchmarkScene) -> Scene:
        canvas = scene["canvas"]
        path = None if canvas is None else self.benchmark.folder / canvas
        return Scene(scene["scene_id"], (scene["prompt"],), path)

    def jobs(self, share: Share) -> Iterator[SceneJob]:
        """The jobs of a share; their canvases are written on the way."""
        for scene, seed in self.images_of(share):
            own = self._scene(scene)
            size = image_size(self.model, own, self.settings)
            line, foreground = self._line(scene, seed, size), None
            if own.guided:
                foreground = read_foreground(own, size)
                line |= write_canvas(self.out, scene["scene_id"], foreground)
            yield SceneJob(line, foreground, scene, self.benchmark.folder)

    def record(self, sam: Path | None) -> dict[str, Any]:
        """What `run.json` says: all images of a folder are of one such record."""
        return {
            "benchmark_sha256": self.benchmark.sha256,
            "method": self.name,
            "images": self.settings.images,
            "sam": None if sam is None else str(sam),
            **{key: value for key, value in self._common().items() if key not in MACHINE},
        }

    def _common(self) -> dict[str, Any]:
        model, settings = self.model, self.settings
        path = model.path
        if Path(path).is_dir():
            path = os.path.relpath(Path(path).resolve(), self.out.resolve())
        return {
            "negative_prompt": settings.negative_prompt,
            "model": path,
            "model_sha256": model.sha256,
            "steps": settings.steps,
            "scheduler": type(model.pipeline.scheduler).__name__,
            "guidance_scale": float(settings.guidance_scale or 0),
            "dtype": model.dtype,
            "device": model.device_name(),
            "threads": torch.get_num_threads(),
            "micro_batch": self.micro_batch,
            "versions": versions(),
            **self.method.fields(),
        }

    def _line(self, scene: BenchmarkScene, seed: int, size: tuple[int, int]) -> dict[str, Any]:
        own = {
            "version": MANIFEST_VERSION,
            "scene_id": scene["scene_id"],
            "prompt": scene["prompt"],
            "seed": seed,
            "method": self.name,
            **dict.fromkeys(("canvas", "canvas_sha256", "mask")),
            "height": size[0],
            "width": size[1],
        }
        return own | self._common()


def claim(out: Path, record: dict[str, Any]) -> None:
    """Write `run.json`, or see that the folder is of the same run.

    Raises:
        InputError: the folder holds images of another one; what differs is named.
        DamageError: its `run.json` is damaged.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / RUN_NAME
    record = json.loads(json.dumps(record))
    if not path.is_file():
        write_json(path, record)
        return
    try:
        held = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise DamageError(f"{path} is damaged; remove {out} and run again") from None
    for key in ("method", *sorted(held.keys() | record.keys())):
        if held.get(key) != record.get(key):
            raise InputError(
                f"{out} holds images of another run ({key} is {held.get(key)} there, "
                f"{record.get(key)} asked for): choose another folder"
            )


def join_manifests(out: Path, count: int, images: Sequence[tuple[BenchmarkScene, int]]) -> bool:
    """Write `manifest.jsonl` of the parts' once all images are there; whether that is so."""
    made: dict[tuple[str, int], GenerationLine] = {}
    for index in range(count):
        for line in read_finished(out / Share(index, count).manifest_name).values():
            made[line["scene_id"], line["seed"]] = line
    order = [(scene["scene_id"], seed) for scene, seed in images]
    if any(key not in made for key in order):
        return False
    text = "".join(json.dumps(made[key], ensure_ascii=False) + "\n" for key in order)
    replace_file(out / MANIFEST_NAME, lambda part: part.write_text(text, encoding="utf-8"))
    return True
