"""`anyscene generate` and `evaluate`: what is done with an export."""

import argparse
from functools import partial
from pathlib import Path

from anyscene.config import Blend
from anyscene.errors import InputError

GO_WITH_AGAIN = ("again", "model", "out", "device")


def add_generate(commands: argparse._SubParsersAction) -> None:
    generate = commands.add_parser(
        "generate", help="make images from prompts and composited foregrounds"
    )
    generate.add_argument("model", nargs="?", metavar="MODEL", help="export, base or hub id")
    generate.add_argument("--out", type=Path, help="folder of images and manifest.jsonl")
    what = generate.add_argument_group("what to generate")
    what.add_argument("--prompt", action="append", default=[], help="may be given several times")
    what.add_argument("--canvas", type=Path, help="RGBA file, alpha 255 on the foreground")
    what.add_argument("--element", action="append", default=[], metavar="FILE@X,Y,HEIGHT")
    what.add_argument(
        "--matting", metavar="MODEL", help="of rembg, or FILE.onnx: cuts photos out as elements"
    )
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
        "--layout",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="layout control, such as attention=4 known_latent=1 known_latent_end=0.8; or off",
    )
    how.add_argument("--micro-batch", type=int, help="images a call; default: as asked, at most 8")
    how.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    how.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    generate.set_defaults(command=partial(_generate, generate.parse_args([])))


def add_evaluate(commands: argparse._SubParsersAction) -> None:
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


def _generate(defaults: argparse.Namespace, options: argparse.Namespace) -> int:
    if options.again is not None:
        return _generate_again(defaults, options)
    from anyscene.scene_list import check_request, request

    model, scenes, settings, out = request(options)
    check_request(model, scenes, settings)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.generate import MANIFEST_NAME, generate

    lines = generate(model, scenes, settings, out)
    print(f"{len(lines)} images: {out / MANIFEST_NAME}")
    return 0


def _generate_again(defaults: argparse.Namespace, options: argparse.Namespace) -> int:
    from anyscene.manifest import read_generation_manifest

    for name, default in vars(defaults).items():
        if name not in GO_WITH_AGAIN and getattr(options, name) != default:
            raise InputError(
                f"--{name.replace('_', '-')} cannot go with --again: the manifest says how its "
                "images were made"
            )
    read_generation_manifest(options.again)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.remake import remake

    device = None if options.device == defaults.device else options.device
    results = remake(options.again, options.out, options.model, device)
    for result in results:
        if not result.equal:
            print(result.report)
    equal = sum(result.equal for result in results)
    print(f"{equal} of {len(results)} images are equal bit for bit")
    return 0 if equal == len(results) else 1


def _evaluate(options: argparse.Namespace) -> int:
    from anyscene.data.sample import ShardManifest
    from anyscene.export_record import read_export_record
    from anyscene.scene_list import GenerateSettings, check_model, sampling

    check_model(options.model)
    record = read_export_record(options.model)
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
        step=None if record is None else record["step"],
    )
    print(f"figures: {options.out}")
    return 0
