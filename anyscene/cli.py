"""`anyscene COMMAND`: parsing only. Nothing heavy is imported before a command needs it."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from anyscene import __version__
from anyscene.config import Blend
from anyscene.errors import AnySceneError, DamageError, InputError

Command = Callable[[argparse.Namespace], int]


class OneLineParser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all other ones are told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code: 0, 1 (damage, a failed run), 2 (a mistake)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.command(options)
    except AnySceneError as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 2
    except DamageError as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:  # not about a user's file or folder
            raise
        print(f"anyscene: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anyscene: interrupted", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = OneLineParser(prog="anyscene", description="Scene customization.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_train(commands)
    _add_export(commands)
    _add_generate(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_demo(commands)
    return parser


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="make data sets, an embedded base; check shards")
    kinds = prepare.add_subparsers(required=True, metavar="KIND")

    demo = kinds.add_parser("demo", help="procedural scenes as COCO, and their shards")
    demo.add_argument("--out", type=Path, required=True)
    demo.add_argument("--scenes", type=int, default=3000, help="training scenes")
    demo.add_argument("--val-scenes", type=int, default=256, help="held-out scenes")
    demo.add_argument("--size", type=int, default=64, help="pixels a side")
    _add_common(demo)
    demo.set_defaults(command=_prepare_demo)

    coco = kinds.add_parser("coco", help="shards of images, instances and captions in COCO format")
    coco.add_argument("--images", type=Path, required=True, help="folder of image files")
    coco.add_argument("--instances", type=Path, required=True, help="instances.json")
    coco.add_argument("--captions", type=Path, help="captions.json; default: from the categories")
    coco.add_argument("--out", type=Path, required=True)
    coco.add_argument("--split", default="train", help="name in the shards' names")
    coco.add_argument("--size", type=int, default=512, help="pixels a side")
    coco.add_argument("--soften", type=float, default=1.0, help="sigma of soft edges in pixels")
    coco.add_argument("--min-area-share", type=float, default=0.02, help="of a foreground")
    coco.add_argument("--max-area-share", type=float, default=0.8, help="of a foreground")
    coco.add_argument("--limit", type=int, help="the first images only")
    coco.add_argument("--overwrite", action="store_true", help="make OUT again")
    _add_common(coco)
    coco.set_defaults(command=_prepare_coco)

    verify = kinds.add_parser("verify", help="check all shards in and below a folder")
    verify.add_argument("folder", type=Path)
    verify.set_defaults(command=_verify)

    base = kinds.add_parser("base", help="first stage, text encoder, untrained UNet, judge")
    base.add_argument("--shards", type=Path, required=True, help="folder with train and val shards")
    base.add_argument("--out", type=Path, required=True)
    base.add_argument("--steps", type=int, default=20_000, help="of the first stage")
    base.add_argument("--unet-channels", type=_integers, default=(32, 64, 96), metavar="N,N,...")
    base.add_argument("--latent-channels", type=int, default=16)
    base.add_argument("--prediction", default="sample", choices=("sample", "v_prediction"))
    base.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    base.add_argument("--seed", type=int, default=0)
    base.set_defaults(command=_prepare_base)


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train as a config file says, or go on training")
    train.add_argument("config", type=Path)
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.set_defaults(command=_train)


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write a run's model as a diffusers folder")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--checkpoint", type=Path, help="default: the newest undamaged one")
    export.add_argument("--no-base", action="store_true", help="the FIM alone")
    export.add_argument("--half", action="store_true", help="store weights as float16")
    export.add_argument("--overwrite", action="store_true", help="replace an export in OUT")
    export.set_defaults(command=_export)


def _add_generate(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser(
        "generate", help="make images from prompts and composited foregrounds"
    )
    generate.add_argument("model", nargs="?", metavar="MODEL", help="export, base or hub id")
    generate.add_argument("--out", type=Path, help="folder of images and manifest.jsonl")
    what = generate.add_argument_group("what to generate")
    what.add_argument("--prompt", action="append", default=[], help="may be given several times")
    what.add_argument("--canvas", type=Path, help="RGBA file, alpha 255 on the foreground")
    what.add_argument("--element", action="append", default=[], metavar="FILE@X,Y,HEIGHT")
    what.add_argument("--scenes", type=Path, help="a .jsonl or .yaml list of scenes instead")
    what.add_argument("--seed", type=int, default=0, help="of a prompt's first image")
    what.add_argument("--images", type=int, default=1, help="for each prompt")
    what.add_argument("--again", type=Path, metavar="MANIFEST", help="make its images again")
    how = generate.add_argument_group("how; the defaults are the export's")
    how.add_argument("--steps", type=int)
    how.add_argument("--guidance-scale", type=float)
    how.add_argument("--foreground-guidance-scale", type=float)
    how.add_argument("--negative-prompt", default="")
    how.add_argument("--height", type=int)
    how.add_argument("--width", type=int)
    how.add_argument("--blend", choices=[choice.name for choice in Blend])
    how.add_argument("--blend-k", type=float, help="detail: 1 gives the foreground back")
    how.add_argument(
        "--known-latent", type=float, default=0.0, metavar="SHARE", help="of the steps"
    )
    how.add_argument("--micro-batch", type=int, help="images a call; default: as asked, at most 8")
    how.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    how.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    generate.set_defaults(command=_generate)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="figures on held-out scenes, beside rivals")
    evaluate.add_argument("model", metavar="MODEL", help="folder of an export")
    evaluate.add_argument("--shards", type=Path, required=True, help="held-out shards")
    evaluate.add_argument("--judge", type=Path, required=True, help="of `prepare base`")
    evaluate.add_argument(
        "--out", type=Path, required=True, help="JSON file, such as RUN/evaluation.json"
    )
    evaluate.add_argument("--samples", type=int, default=64, help="the first ones")
    evaluate.add_argument("--controls", action="store_true", help="also the controls; slower")
    evaluate.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    evaluate.set_defaults(command=_evaluate)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="the whole chain on embedded data, in minutes")
    demo.add_argument("--config", type=Path, default=Path("configs/train/demo.yaml"))
    demo.add_argument("--data", type=Path, default=Path("data/demo"))
    demo.add_argument("overrides", nargs="*", metavar="key=value")
    demo.set_defaults(command=_demo)


def _add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="write a run's report.html")
    report.add_argument("run", type=Path, metavar="RUN", help="run folder")
    report.set_defaults(command=_report)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _prepare_demo(options: argparse.Namespace) -> int:
    from data_prep.demo_scenes import prepare_demo

    prepare_demo(
        options.out,
        scenes=options.scenes,
        val_scenes=options.val_scenes,
        seed=options.seed,
        size=options.size,
        workers=options.workers,
    )
    return 0


def _prepare_coco(options: argparse.Namespace) -> int:
    from data_prep.coco import prepare_coco

    prepare_coco(
        options.images,
        options.instances,
        options.captions,
        options.out,
        split=options.split,
        seed=options.seed,
        size=options.size,
        soften=options.soften,
        workers=options.workers,
        min_area_share=options.min_area_share,
        max_area_share=options.max_area_share,
        limit=options.limit,
        overwrite=options.overwrite,
    )
    return 0


def _verify(options: argparse.Namespace) -> int:
    from data_prep.verify import verify

    return 1 if verify(options.folder).damages else 0


def _prepare_base(options: argparse.Namespace) -> int:
    from anyscene.data.sample import ShardManifest

    for split in ("train", "val"):
        ShardManifest.read(options.shards / split)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from data_prep.demo_base import BaseRecipe, prepare_base

    recipe = BaseRecipe(
        unet_channels=options.unet_channels,
        latent_channels=options.latent_channels,
        first_stage_steps=options.steps,
        prediction_type=options.prediction,
    )
    prepare_base(
        options.shards, options.out, recipe=recipe, seed=options.seed, device=options.device
    )
    print(f"base: {options.out / 'base'}; figures: {options.out / 'base.json'}")
    return 0


def _train(options: argparse.Namespace) -> int:
    from anyscene.config_io import load_config

    config = load_config(options.config, options.overrides)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.train import is_first_process, train

    run = train(config)
    if is_first_process():
        print(f"run folder: {run}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from anyscene.export_record import check_export

    check_export(options.run, options.out, options.checkpoint, overwrite=options.overwrite)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.export import export

    out = export(
        options.run,
        options.out,
        checkpoint=options.checkpoint,
        with_base=not options.no_base,
        half=options.half,
        overwrite=options.overwrite,
    )
    print(f"export: {out}")
    return 0


def _generate(options: argparse.Namespace) -> int:
    if options.again is not None:
        return _generate_again(options)
    from anyscene.scene_list import check_request, request

    model, scenes, settings, out = request(options)
    check_request(model, scenes, settings)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.generate import MANIFEST_NAME, generate

    lines = generate(model, scenes, settings, out)
    print(f"{len(lines)} images: {out / MANIFEST_NAME}")
    return 0


def _generate_again(options: argparse.Namespace) -> int:
    from anyscene.manifest import read_generation_manifest

    lines = read_generation_manifest(options.again)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.remake import remake

    results = remake(options.again, options.out, options.model)
    for result in results:
        if not result.equal:
            print(result.report)
    equal = sum(result.equal for result in results)
    print(f"{equal} of {len(lines)} images are equal bit for bit")
    return 0 if equal == len(results) else 1


def _evaluate(options: argparse.Namespace) -> int:
    from anyscene.data.sample import ShardManifest
    from anyscene.export_record import read_export_record
    from anyscene.scene_list import GenerateSettings, check_model, sampling

    check_model(options.model)
    record = read_export_record(Path(options.model))
    ShardManifest.read(options.shards)
    if options.samples < 2:
        raise InputError(f"--samples={options.samples} is too small; use at least 2")
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.evaluate import evaluate
    from anyscene.image_jobs import load_model
    from anyscene.metrics.judge import Judge

    evaluate(
        load_model(options.model, "fp32", options.device).pipeline,
        Judge.from_pretrained(options.judge),
        options.shards,
        options.out,
        sample=sampling(GenerateSettings(), record),
        samples=options.samples,
        controls=options.controls,
    )
    print(f"figures: {options.out}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from anyscene.demo import run_demo

    run_demo(options.config, options.data, options.overrides)
    return 0


def _report(options: argparse.Namespace) -> int:
    from anyscene.report import write_report

    print(f"report: {write_report(options.run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
