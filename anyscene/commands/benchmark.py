"""`anyscene benchmark STEP`: the evaluation, step by step."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anyscene.benchmark.methods import METHODS
from anyscene.config import Blend
from anyscene.errors import InputError

if TYPE_CHECKING:
    from anyscene.scene_list import GenerateSettings, Scene


def add_benchmark(commands: argparse._SubParsersAction) -> None:
    benchmark = commands.add_parser("benchmark", help="the evaluation: scenes, methods, scores")
    steps = benchmark.add_subparsers(required=True, metavar="STEP")
    _add_build(steps)
    _add_run(steps)
    _add_ablate(steps)


def _add_build(steps: argparse._SubParsersAction) -> None:
    build = steps.add_parser("build", help="a frozen set of scenes, of COCO or of shards")
    build.add_argument("out", type=Path, metavar="OUT", help="the benchmark's folder")
    build.add_argument("--shards", type=Path, help="held-out shards; or the next three")
    build.add_argument("--images", type=Path, help="COCO's folder of image files")
    build.add_argument("--instances", type=Path, help="COCO's instances.json")
    build.add_argument("--captions", type=Path, help="COCO's captions.json")
    build.add_argument("--pixels", type=int, default=512, help="a side of COCO's scenes")
    build.add_argument("--size", type=int, default=1000, help="scenes, at most")
    build.add_argument("--recombined", type=float, default=0.5, metavar="SHARE", help="of scenes")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    build.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    build.set_defaults(command=_build)


def _add_run(steps: argparse._SubParsersAction) -> None:
    run = steps.add_parser("run", help="the images of one method, on every scene")
    run.add_argument("benchmark", type=Path, metavar="BENCHMARK", help="folder of `build`")
    run.add_argument("--method", required=True, metavar="NAME", help=", ".join(METHODS))
    run.add_argument("--model", required=True, help="export (of anyscene), or base: folder, hub id")
    run.add_argument("--controlnet", type=Path, help="of controlnet_canny: folder of a ControlNet")
    run.add_argument("--sam", type=Path, help="of inpaint_anything: let a SAM model find the masks")
    run.add_argument("--out", type=Path, required=True, help="folder of images and manifest.jsonl")
    run.add_argument("--images", type=int, default=1, help="generation seeds a scene")
    run.add_argument("--steps", type=int, default=50, help="the same for all methods")
    run.add_argument("--guidance-scale", type=float, default=7.5, help="the same for all methods")
    run.add_argument("--negative-prompt", default="")
    run.add_argument("--blend", choices=[choice.name for choice in Blend], help="of anyscene")
    run.add_argument("--blend-k", type=float, help="of anyscene; default: the export's")
    run.add_argument("--micro-batch", type=int, help="images a call, 8 by default")
    run.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    run.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    run.add_argument("--shard-index", type=int, default=0, help="which part of the images, from 0")
    run.add_argument("--num-shards", type=int, default=1, help="parts, one for each job")
    run.set_defaults(command=_run)


def _add_ablate(steps: argparse._SubParsersAction) -> None:
    ablate = steps.add_parser("ablate", help="layout control: none, each mechanism alone, all")
    ablate.add_argument("model", metavar="MODEL", help="export, base or hub id")
    ablate.add_argument("--shards", type=Path, help="held-out shards; or a scene list:")
    ablate.add_argument("--scenes", type=Path, help="a .jsonl or .yaml list of scenes")
    ablate.add_argument("--judge", type=Path, help="of `prepare base`, for procedural scenes")
    ablate.add_argument("--sam", help="folder or hub id of a SAM, for photos")
    ablate.add_argument(
        "--layout",
        nargs="+",
        default=["attention=4", "residual_gate=1", "known_latent=1"],
        metavar="NAME=VALUE",
        help="strengths and spans where a mechanism is on; default: %(default)s",
    )
    ablate.add_argument("--out", type=Path, required=True, help="folder of table and JSON")
    ablate.add_argument("--samples", type=int, default=64, help="of the shards, the first ones")
    ablate.add_argument("--seeds", type=int, nargs="+", default=[0], help="an image for each")
    ablate.add_argument("--steps", type=int, help="default: the export's, as for the next two")
    ablate.add_argument("--guidance-scale", type=float)
    ablate.add_argument("--micro-batch", type=int, default=8, help="images a call")
    ablate.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    ablate.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    ablate.set_defaults(command=_ablate)


def _build(options: argparse.Namespace) -> int:
    coco = (options.images, options.instances, options.captions)
    if (options.shards is None) == (options.images is None or options.instances is None):
        raise InputError("benchmark build needs either --shards, or --images and --instances")
    import shutil

    from anyscene.benchmark.build import BuildSettings, build
    from anyscene.benchmark.sources import prepared_coco
    from anyscene.data.sample import ShardManifest

    settings = BuildSettings(options.size, options.recombined, options.seed)
    settings.check()
    work = options.out.with_name(f".{options.out.name}.shards")  # continued after a kill
    if options.shards is not None:
        manifest = ShardManifest.read(options.shards)
    else:
        manifest = prepared_coco(*coco, work, options.pixels, options.workers)
    built = build(manifest, options.out, settings, overwrite=options.overwrite)
    if options.shards is None:
        shutil.rmtree(work)
    layouts = ", ".join(f"{count} {name}" for name, count in built.record["layouts"].items())
    print(f"{built.record['scenes']} scenes ({layouts}): {options.out}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from anyscene.benchmark.scenes import read_benchmark
    from anyscene.scene_list import GenerateSettings, check_settings

    benchmark = read_benchmark(options.benchmark, check=True)
    settings = GenerateSettings(
        images=options.images,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        negative_prompt=options.negative_prompt,
        blend=None if options.blend is None else Blend[options.blend],
        blend_k=options.blend_k,
        micro_batch=options.micro_batch,
        device=options.device,
        dtype=options.dtype,
    )
    check_settings(settings)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.benchmark.run import Share, run

    lines = run(
        benchmark,
        options.method,
        options.model,
        options.out,
        settings,
        share=Share(options.shard_index, options.num_shards),
        controlnet=options.controlnet,
        sam=options.sam,
    )
    print(f"{len(lines)} images of {options.method}: {options.out}")
    return 0


def _ablate(options: argparse.Namespace) -> int:
    from anyscene.export_record import read_export_record
    from anyscene.layout_settings import LayoutControl, parse_layout
    from anyscene.scene_list import GenerateSettings, sampling

    on = parse_layout(options.layout, LayoutControl())
    settings = GenerateSettings(
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        micro_batch=options.micro_batch,
        device=options.device,
        dtype=options.dtype,
    )
    listed = _check_ablate(options, settings)
    sample = sampling(settings, read_export_record(Path(options.model)))
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.benchmark.ablate import TABLE_NAME, Measure, ablate, listed_scenes
    from anyscene.evaluate import read_held_out
    from anyscene.image_jobs import load_model
    from anyscene.metrics.judge import Judge
    from anyscene.metrics.sam import SamSegmenter

    if options.judge is not None:
        judge = Judge.from_pretrained(options.judge)
        measure = Measure(judge.segmenter, judge)
    else:
        measure = Measure(SamSegmenter.from_pretrained(options.sam))
    model = load_model(options.model, options.dtype, options.device)
    if options.shards is not None:
        scenes = read_held_out(options.shards, options.samples, seed=0)
    else:
        scenes = listed_scenes(model, listed)
    ablate(
        model,
        scenes,
        measure,
        options.out,
        sample=replace(sample, micro_batch=options.micro_batch),
        on=on,
        seeds=options.seeds,
        real=options.shards is not None,
    )
    print((options.out / TABLE_NAME).read_text(), end="")
    return 0


def _check_ablate(options: argparse.Namespace, settings: "GenerateSettings") -> "list[Scene]":
    """The scenes of the list, if there is one; raises `InputError` for what cannot work."""
    from anyscene.data.sample import ShardManifest
    from anyscene.scene_list import check_model, check_request, check_settings, read_scene_list

    for one, other in (("shards", "scenes"), ("judge", "sam")):
        if (getattr(options, one) is None) == (getattr(options, other) is None):
            raise InputError(f"benchmark ablate needs either --{one} or --{other}")
    if len(set(options.seeds)) < len(options.seeds):
        raise InputError(f"--seeds {' '.join(map(str, options.seeds))} must differ")
    if options.samples < 2:
        raise InputError(f"--samples={options.samples} is too small; use at least 2")
    if options.scenes is not None:
        listed = read_scene_list(options.scenes)
        check_request(options.model, listed, settings)
        return listed
    check_model(options.model)
    check_settings(settings)
    ShardManifest.read(options.shards)
    return []
