"""`anyscene benchmark STEP`: the evaluation, step by step."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from anyscene.benchmark.methods import METHODS
from anyscene.commands.benchmark_ablate import add_ablate
from anyscene.config import Blend
from anyscene.errors import InputError

Number = TypeVar("Number", int, float)


def add_benchmark(commands: argparse._SubParsersAction) -> None:
    benchmark = commands.add_parser("benchmark", help="the evaluation: scenes, methods, scores")
    steps = benchmark.add_subparsers(required=True, metavar="STEP")
    _add_build(steps)
    _add_run(steps)
    _add_score(steps)
    _add_gallery(steps)
    _add_demo(steps)
    add_ablate(steps)


def _add_build(steps: argparse._SubParsersAction) -> None:
    build = steps.add_parser("build", help="a frozen set of scenes, of COCO or of shards")
    build.add_argument("out", type=Path, metavar="OUT", help="the benchmark's folder")
    build.add_argument("--shards", type=Path, help="held-out shards; or the next three")
    build.add_argument("--images", type=Path, help="COCO's folder of image files")
    build.add_argument("--instances", type=Path, help="COCO's instances.json")
    build.add_argument("--captions", type=Path, help="COCO's captions.json")
    build.add_argument("--subjects", type=Path, help="or a folder of subjects, see the docs")
    build.add_argument("--pixels", type=int, help="a side of COCO's or subjects' scenes, 512")
    build.add_argument("--prompts", type=int, help="of each subject, the first ones; default: all")
    build.add_argument("--pairs", type=int, help="pairs of subjects, for scenes of two, 0")
    build.add_argument("--matting", metavar="MODEL", help="cuts out subjects that have no mask")
    build.add_argument("--size", type=int, help="scenes of COCO or shards, at most, 1000")
    build.add_argument("--recombined", type=float, metavar="SHARE", help="of those scenes, 0.5")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--workers", type=int, help="processes that read COCO; default: all cores")
    build.add_argument("--overwrite", action="store_true", help="replace what OUT holds")
    build.set_defaults(command=_build)


def _add_run(steps: argparse._SubParsersAction) -> None:
    run = steps.add_parser("run", help="the images of one method, on every scene")
    run.add_argument("benchmark", type=Path, metavar="BENCHMARK", help="folder of `build`")
    run.add_argument("--method", required=True, metavar="NAME", help=", ".join(METHODS))
    run.add_argument("--model", required=True, help="export (of anyscene), or base: folder, hub id")
    run.add_argument("--controlnet", type=Path, help="of controlnet_canny: folder of a ControlNet")
    run.add_argument("--sam", type=Path, help="of inpaint_anything: let a SAM model find the masks")
    run.add_argument(
        "--fine-tune",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of dreambooth and custom_diffusion: steps, learning_rate, batch, prior_images, "
        "prior_weight, seed; default: the papers'",
    )
    run.add_argument("--fine-tunes", type=Path, help="where they are kept; default: OUT/fine_tunes")
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


def _add_score(steps: argparse._SubParsersAction) -> None:
    score = steps.add_parser("score", help="every metric for every method")
    report = steps.add_parser("report", help="page, tables and pictures of the scores")
    for step, command in ((score, _score), (report, _report)):
        step.add_argument("benchmark", type=Path, metavar="BENCHMARK", help="folder of `build`")
        step.add_argument(
            "--run", action="append", required=True, metavar="[NAME=]FOLDER", help="one a method"
        )
        step.add_argument("--out", type=Path, required=True, help="folder of scores and report")
        step.set_defaults(command=command)
    score.add_argument("--sam", help="folder or hub id of a SAM that finds elements in photos")
    score.add_argument("--least", type=int, default=5, help="scenes that a category needs")
    score.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    score.add_argument(
        "overrides",
        nargs="*",
        metavar="metrics.KEY=VALUE",
        help="weights, such as metrics.inception=FILE; see docs/metrics.md",
    )


def _add_gallery(steps: argparse._SubParsersAction) -> None:
    gallery = steps.add_parser("gallery", help="foregrounds in rows, scene contexts in columns")
    gallery.add_argument("manifest", type=Path, help="manifest.jsonl of `anyscene generate`")
    gallery.add_argument("--out", type=Path, required=True, help="PNG file")
    gallery.add_argument("--raw", action="store_true", help="the images before blending")
    gallery.set_defaults(command=_gallery)


def _add_demo(steps: argparse._SubParsersAction) -> None:
    demo = steps.add_parser("demo", help="every method on held-out demo scenes, and the report")
    demo.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"))
    demo.add_argument("--scenes", type=int, default=32)
    demo.add_argument("--images", type=int, default=1, help="generation seeds a scene")
    demo.add_argument("--steps", type=int, default=20, help="of sampling")
    demo.set_defaults(command=_demo)


def _build(options: argparse.Namespace) -> int:
    if options.subjects is not None:
        return _build_subjects(options)
    refuse(options, ("prompts", "pairs", "matting"), "--subjects")
    if options.shards is not None:
        refuse(options, ("images", "instances", "captions", "workers"), "COCO, not for --shards")
        refuse(options, ("pixels",), "COCO or --subjects, not for --shards")
    coco = (options.images, options.instances, options.captions)
    if (options.shards is None) == (options.images is None or options.instances is None):
        raise InputError(
            "benchmark build needs one of --shards, --subjects, or --images and --instances"
        )
    import shutil

    from anyscene.benchmark.build import BuildSettings, build
    from anyscene.benchmark.sources import prepared_coco
    from anyscene.data.sample import ShardManifest

    settings = BuildSettings(
        given(options.size, 1000), given(options.recombined, 0.5), options.seed
    )
    settings.check()
    work = options.out.with_name(f".{options.out.name}.shards")  # continued after a kill
    if options.shards is not None:
        manifest = ShardManifest.read(options.shards)
    else:
        manifest = prepared_coco(
            *coco, work, given(options.pixels, 512), given(options.workers, os.cpu_count() or 1)
        )
    built = build(manifest, options.out, settings, overwrite=options.overwrite)
    if options.shards is None:
        shutil.rmtree(work)
    layouts = ", ".join(f"{count} {name}" for name, count in built.record["layouts"].items())
    print(f"{built.record['scenes']} scenes ({layouts}): {options.out}")
    return 0


def _build_subjects(options: argparse.Namespace) -> int:
    if options.shards is not None or options.images is not None:
        raise InputError("--subjects cannot go with --shards or --images: choose one source")
    refuse(
        options,
        ("size", "recombined", "instances", "captions", "workers"),
        "COCO or shards, not for --subjects",
    )
    from anyscene.benchmark.build_subjects import SubjectSettings, build_subjects

    settings = SubjectSettings(
        given(options.pixels, 512),
        options.prompts,
        given(options.pairs, 0),
        options.seed,
        options.matting,
    )
    built = build_subjects(options.subjects, options.out, settings, overwrite=options.overwrite)
    cut_out = sum(own["cut_out"] for own in built.subjects.values())
    print(
        f"{built.record['scenes']} scenes of {len(built.subjects)} subjects, {cut_out} of them cut "
        f"out: {options.out}"
    )
    return 0


def refuse(options: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """Raises `InputError` where one of the options is given, which is for something else."""
    for name in names:
        if getattr(options, name) is not None:
            raise InputError(f"--{name} {getattr(options, name)} is for {what}")


def given(value: Number | None, default: Number) -> Number:
    """An option's value, or its default."""
    return default if value is None else value


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
        fine_tunes=options.fine_tunes,
        fine_tune=options.fine_tune,
    )
    print(f"{len(lines)} images of {options.method}: {options.out}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from anyscene.benchmark.options import metrics_config, named_folders
    from anyscene.benchmark.runs import read_runs
    from anyscene.benchmark.scenes import read_benchmark

    config = metrics_config(options.overrides)
    benchmark = read_benchmark(options.benchmark, check=True)
    runs = read_runs(benchmark, named_folders(options.run))
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.benchmark.score import SCORES_NAME, score

    score(
        benchmark,
        runs,
        options.out,
        config,
        device=options.device,
        least=options.least,
        sam=options.sam,
    )
    print(f"scores of {len(runs)} methods: {options.out / SCORES_NAME}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from anyscene.benchmark.options import named_folders
    from anyscene.benchmark.report import write_report
    from anyscene.benchmark.runs import read_runs
    from anyscene.benchmark.scenes import read_benchmark

    benchmark = read_benchmark(options.benchmark)
    runs = read_runs(benchmark, named_folders(options.run))
    print(f"report: {write_report(benchmark, runs, options.out)}")
    return 0


def _gallery(options: argparse.Namespace) -> int:
    from anyscene.benchmark.pictures import gallery
    from anyscene.files import replace_file

    sheet = gallery(options.manifest, blended=not options.raw)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(options.out, lambda part: sheet.save(part, format="PNG"))
    print(f"gallery: {options.out}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    if options.scenes < 2 or options.images < 1:
        raise InputError("benchmark demo needs at least --scenes 2 and --images 1")
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.benchmark.demo import DemoSettings, run_demo

    run_demo(options.out, DemoSettings(options.scenes, options.images, options.steps))
    return 0
