"""`anyscene demo`: the whole chain on embedded data in one process, each step as a user runs it.

prepare -> train -> export -> evaluate -> generate -> report. What a former call finished is
reused, and an interrupted training goes on from its last checkpoint.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anyscene.config import Config
from anyscene.config_io import load_config, read_config
from anyscene.errors import ConfigError
from anyscene.files import replace_file
from anyscene.manifest import GenerationLine
from anyscene.quiet import quiet_libraries
from anyscene.ranks import is_first_process
from anyscene.scene_list import GenerateSettings, Scene
from data_prep.demo_scenes import prepare_demo

TRAIN_SCENES = 3000
VAL_SCENES = 64
CANVASES = (2, 4, 7)  # held-out scenes whose elements are put into other scenes
PROMPT_ENDS = {  # each light was seen in its place in training, see `data_prep.demo_plan`
    "beach, warm, left": "on the beach, warm light from the left",
    "beach, cool, right": "on the beach, cool light from the right",
    "snow, cool, left": "in the snow, cool light from the left",
    "meadow, warm, above": "in a meadow, warm light from above",
    "city, cool, right": "in a city at night, cool light from the right",
}
BLEND_K = 0.25  # mostly the generated light on the elements' own detail


def run_demo(config_path: Path, data: Path, overrides: Sequence[str]) -> None:
    """Run all stages; prints what each took, and where the pictures and the report are.

    Args:
        config_path: the training's YAML file.
        data: folder for the embedded data.
        overrides: `key=value` changes of the configuration.
    """
    folders = (f"data.{split}={data / 'shards' / split}" for split in ("train", "val"))
    overrides = [*folders, *overrides]  # the user's own come last, and count
    config = read_config(config_path, overrides)
    if config.metrics.judge is None:
        raise ConfigError("the demo needs metrics.judge: its figures are part of the report")
    run = Path(config.runs_dir) / config.name
    started = time.perf_counter()
    timed("prepare", lambda: prepare(data, config.train.seed))
    config = load_config(config_path, overrides)
    quiet_libraries()
    timed("train", lambda: train_model(config, run))
    if not is_first_process():  # a process that the trainer started, to train alone
        return
    timed("export", lambda: export_model(run))
    timed("evaluate", lambda: evaluate_model(config, run))
    timed("generate", lambda: generate_scenes(config, run))
    from anyscene.report import write_report

    timed("report", lambda: write_report(run))
    print(f"\nAll of it took {time.perf_counter() - started:.0f} s. Look at:")
    print(f"  {run / 'report.html'}          curves, figures, sample grids")
    print(f"  {run / 'scenes.png'}           the same elements in several places and lights")
    print(f"  {newest_grid(run)}             held-out scenes")
    print(f"  {run / 'export'}               the model, for stock diffusers or `anyscene generate`")


def timed(stage: str, work: Callable[[], object]) -> None:
    """Run a stage and print how long it took."""
    print(f"== {stage}", flush=True)
    started = time.perf_counter()
    work()
    print(f"== {stage}: {time.perf_counter() - started:.0f} s", flush=True)


def prepare(data: Path, seed: int) -> None:
    """The embedded data as COCO and as shards."""
    workers = os.cpu_count() or 1
    prepare_demo(
        data, scenes=TRAIN_SCENES, val_scenes=VAL_SCENES, seed=seed, size=64, workers=workers
    )


def train_model(config: Config, run: Path) -> None:
    """Train, unless the last checkpoint and the last validation are there already."""
    last = f"step-{config.train.steps:08d}"
    files = run / "checkpoints" / f"{last}.json", run / "samples" / last / "grid.png"
    if all(file.is_file() for file in files):
        print(f"{run} is trained: reused")
        return
    from anyscene.train import train

    train(config)


def export_model(run: Path) -> None:
    """The complete pipeline, in stock form."""
    from anyscene.export import export

    export(run, run / "export", overwrite=True)


def evaluate_model(config: Config, run: Path) -> None:
    """The report's table: real scenes, training-free rivals, the FIM."""
    out = run / "evaluation.json"
    last = run / "checkpoints" / f"step-{config.train.steps:08d}.json"
    if out.is_file() and out.stat().st_mtime > last.stat().st_mtime:
        print(f"{out} is newer than the last checkpoint: reused")
        return
    from anyscene.evaluate import evaluate
    from anyscene.export_record import read_export_record
    from anyscene.image_jobs import load_model
    from anyscene.metrics.judge import Judge

    assert config.metrics.judge is not None
    assert config.data.val is not None
    record = read_export_record(run / "export")
    assert record is not None
    evaluate(
        load_model(str(run / "export"), "fp32", "auto").pipeline,
        Judge.from_pretrained(config.metrics.judge),
        Path(config.data.val),
        out,
        sample=config.sample,
        samples=config.data.val_samples,
        step=record["step"],
    )


def generate_scenes(config: Config, run: Path) -> None:
    """A few held-out foregrounds in several places and lights, and one picture of all of them."""
    from anyscene.generate import generate

    assert config.data.val is not None
    scenes = write_canvases(Path(config.data.val), run / "canvases")
    settings = GenerateSettings(micro_batch=len(PROMPT_ENDS), blend_k=BLEND_K)
    lines = generate(str(run / "export"), scenes, settings, run / "scenes")
    sheet = scene_sheet(lines, run / "scenes")
    replace_file(run / "scenes.png", lambda part: sheet.save(part, format="PNG"))


def write_canvases(shards: Path, folder: Path) -> list[Scene]:
    """Cut-outs of held-out scenes as RGBA files, with the prompts of where to put them."""
    from anyscene.held_out import read_held_out

    folder.mkdir(parents=True, exist_ok=True)
    held_out = read_held_out(shards, max(CANVASES) + 1, seed=0)
    scenes = []
    for number in CANVASES:
        colours = held_out.scene[number] * (held_out.alpha[number] > 0)
        rgba = np.concatenate([colours.numpy(), held_out.alpha[number].numpy()])  # 4 H W
        path = folder / f"{number:02d}.png"
        image = Image.fromarray(np.round(rgba * 255).astype(np.uint8).transpose(1, 2, 0))
        replace_file(path, lambda part, image=image: image.save(part, format="PNG"))
        elements = re.split(r" (?:on|in|at) ", held_out.prompts[number])[0]
        prompts = tuple(f"{elements} {end}" for end in PROMPT_ENDS.values())
        scenes.append(Scene(path.stem, prompts, canvas=path, seed=number))
    return scenes


def scene_sheet(lines: list[GenerationLine], folder: Path) -> Image.Image:
    """Rows of foregrounds, columns of places and lights."""
    from anyscene.visual import sample_grid

    rows: dict[str, list[GenerationLine]] = {}
    for line in lines:
        rows.setdefault(line["scene_id"], []).append(line)
    columns: dict[str, list[Image.Image]] = {"foreground": []}
    captions = []
    first_end = next(iter(PROMPT_ENDS.values()))
    for row in rows.values():
        captions.append(row[0]["prompt"].removesuffix(f" {first_end}"))
        columns["foreground"].append(Image.open(folder / str(row[0]["canvas"])))
        for line, name in zip(row, PROMPT_ENDS, strict=True):
            columns.setdefault(name, []).append(Image.open(folder / line["image"]))
    return sample_grid(columns, captions)


def newest_grid(run: Path) -> Path:
    """The newest sample grid; a path that is not there before the first validation."""
    grids = sorted((run / "samples").glob("step-*/grid.png"))
    return grids[-1] if grids else run / "samples" / "grid.png"
