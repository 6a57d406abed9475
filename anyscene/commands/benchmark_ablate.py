"""`anyscene benchmark ablate`: what each mechanism of layout control does."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anyscene.errors import InputError

if TYPE_CHECKING:
    from anyscene.scene_list import GenerateSettings, Scene


def add_ablate(steps: argparse._SubParsersAction) -> None:
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
    sample = sampling(settings, read_export_record(options.model))
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.benchmark.ablate import TABLE_NAME, Measure, ablate, listed_scenes
    from anyscene.held_out import read_held_out
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
