"""`anyscene benchmark STEP`: the evaluation, step by step."""

import argparse
import os
from pathlib import Path

from anyscene.errors import InputError


def add_benchmark(commands: argparse._SubParsersAction) -> None:
    benchmark = commands.add_parser("benchmark", help="the evaluation: scenes, methods, scores")
    steps = benchmark.add_subparsers(required=True, metavar="STEP")
    _add_build(steps)


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
