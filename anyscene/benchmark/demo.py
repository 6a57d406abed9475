"""`anyscene benchmark demo`: every method that the demo's base can run, scored and reported.

Held-out procedural scenes, whose true shadow is known. The FIM and the edge ControlNet were trained
with the same data, loss, seed and budget, see `anyscene/assets/benchmark/README.md`.
"""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from anyscene.benchmark.build import BuildSettings, build
from anyscene.benchmark.methods import METHODS, NEEDS_CONTROLNET, NEEDS_SUBJECTS, TAKES_BLEND
from anyscene.benchmark.report import write_report
from anyscene.benchmark.run import run
from anyscene.benchmark.runs import read_runs
from anyscene.benchmark.scenes import Benchmark
from anyscene.benchmark.score import score
from anyscene.config import Blend, MetricsConfig
from anyscene.data.sample import ShardManifest
from anyscene.files import replace_file
from anyscene.scene_list import GenerateSettings, Scene
from data_prep.demo_scenes import prepare_demo

ASSETS = Path(__file__).resolve().parents[1] / "assets"
BASE, JUDGE = ASSETS / "demo_base", ASSETS / "demo_judge"
FIM, CANNY = ASSETS / "benchmark" / "fim", ASSETS / "benchmark" / "canny"
GALLERY_FOREGROUNDS = 4  # rows of the gallery


@dataclass(frozen=True)
class DemoSettings:
    """How large a run it is."""

    scenes: int = 32
    images: int = 1  # generation seeds a scene
    steps: int = 20
    guidance_scale: float = 2.0
    micro_batch: int = 16


def run_demo(out: Path, settings: DemoSettings, seed: int = 0) -> Path:
    """Build, run every method, score and report in `out`; what is there is reused. The page."""
    started = time.perf_counter()
    data = out / "data"
    prepare_demo(data, scenes=1, val_scenes=2 * settings.scenes, seed=seed, size=64)
    shards = ShardManifest.read(data / "shards" / "val")
    benchmark = build(shards, out / "scenes", BuildSettings(settings.scenes, 0.0, seed))
    generate = GenerateSettings(
        images=settings.images,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        micro_batch=settings.micro_batch,
    )
    folders: list[tuple[str | None, Path]] = []
    for name in (name for name in METHODS if name not in NEEDS_SUBJECTS):
        folder = out / "runs" / name
        model, own = BASE, generate
        if name in TAKES_BLEND:
            model, own = FIM, replace(generate, blend=Blend.detail)
        controlnet = CANNY if name in NEEDS_CONTROLNET else None
        begun = time.perf_counter()
        run(benchmark, name, str(model), folder, own, controlnet=controlnet)
        print(f"== {name}: {time.perf_counter() - begun:.0f} s", flush=True)
        folders.append((None, folder))
    runs = read_runs(benchmark, folders)
    scores = out / "scores"
    score(benchmark, runs, scores, MetricsConfig(judge=str(JUDGE)), device="cpu", least=8)
    page = write_report(benchmark, runs, scores)
    _gallery(benchmark, out, generate)
    print(f"\nAll of it took {time.perf_counter() - started:.0f} s. Look at:")
    print(f"  {page}\n  {out / 'gallery.png'}")
    return page


def _gallery(benchmark: Benchmark, out: Path, settings: GenerateSettings) -> None:
    """A few foregrounds in several places and lights, as `anyscene generate` makes them."""
    from anyscene.benchmark.pictures import gallery
    from anyscene.demo import PROMPT_ENDS
    from anyscene.generate import MANIFEST_NAME, generate

    scenes = []
    for number, scene in enumerate(benchmark.scenes[:GALLERY_FOREGROUNDS]):
        elements = re.split(r" (?:on|in|at) ", scene["prompt"])[0]
        prompts = tuple(f"{elements} {end}" for end in PROMPT_ENDS.values())
        canvas = benchmark.folder / str(scene["canvas"])
        scenes.append(Scene(scene["scene_id"], prompts, canvas, seed=number))
    single = GenerateSettings(
        steps=settings.steps, guidance_scale=settings.guidance_scale, blend_k=0.25
    )
    generate(str(FIM), scenes, single, out / "gallery")
    sheet = gallery(out / "gallery" / MANIFEST_NAME)
    replace_file(out / "gallery.png", lambda part: sheet.save(part, format="PNG"))
