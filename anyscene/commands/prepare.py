"""`anyscene prepare KIND`."""

import argparse
from pathlib import Path

from anyscene.commands.prepare_folder import add_folder
from anyscene.commands.prepare_options import (
    add_common,
    add_filters,
    add_parts,
    add_sizes,
    add_workers,
    add_writing,
    sample_settings,
    tell_shards,
    writing,
)


def add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="make data sets, an embedded base; check shards")
    kinds = prepare.add_subparsers(required=True, metavar="KIND")
    _add_demo(kinds)
    _add_coco(kinds)
    add_folder(kinds)
    _add_cache(kinds)
    _add_refine(kinds)
    _add_verify(kinds)
    _add_inspect(kinds)
    _add_base(kinds)


def _add_demo(kinds: argparse._SubParsersAction) -> None:
    demo = kinds.add_parser("demo", help="procedural scenes as COCO, and their shards")
    demo.add_argument("--out", type=Path, required=True)
    demo.add_argument("--scenes", type=int, default=3000, help="training scenes")
    demo.add_argument("--val-scenes", type=int, default=256, help="held-out scenes")
    demo.add_argument("--size", type=int, default=64, help="pixels a side")
    add_common(demo)
    demo.set_defaults(command=_prepare_demo)


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


def _add_coco(kinds: argparse._SubParsersAction) -> None:
    coco = kinds.add_parser("coco", help="shards of images, instances and captions in COCO format")
    coco.add_argument("--images", type=Path, required=True, help="folder of image files")
    coco.add_argument("--instances", type=Path, required=True, help="instances.json")
    coco.add_argument("--captions", type=Path, help="captions.json; default: from the categories")
    coco.add_argument("--out", type=Path, required=True)
    add_sizes(coco)
    add_filters(coco)
    add_writing(coco)
    add_common(coco)
    coco.set_defaults(command=_prepare_coco)


def _prepare_coco(options: argparse.Namespace) -> int:
    from data_prep.coco import CocoFiles, prepare_coco

    return tell_shards(
        prepare_coco(
            CocoFiles(options.images, options.instances, options.captions),
            options.out,
            sample_settings(options, "coco"),
            **writing(options),
        )
    )


def _add_cache(kinds: argparse._SubParsersAction) -> None:
    cache = kinds.add_parser("cache", help="shards of latents, made once for many trainings")
    cache.add_argument("shards", metavar="SHARDS", help="folder or URL")
    cache.add_argument("--base", required=True, help="folder or hub id, as base.path")
    cache.add_argument("--revision", help="of a hub id")
    cache.add_argument("--first-stage", help="an AutoencoderTiny in place of the base's own")
    cache.add_argument("--out", type=Path, required=True)
    cache.add_argument("--dtype", default="fp16", choices=("fp16", "bf16", "fp32"))
    cache.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    cache.add_argument("--batch-size", type=int, default=8, help="scenes encoded together")
    add_parts(cache)
    cache.set_defaults(command=_prepare_cache)


def _prepare_cache(options: argparse.Namespace) -> int:
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from data_prep.cache import Settings, prepare_cache
    from data_prep.parts import Part

    prepare_cache(
        options.shards,
        options.out,
        Settings(
            base=options.base,
            revision=options.revision,
            first_stage=options.first_stage,
            dtype=options.dtype,
            device=options.device,
            batch_size=options.batch_size,
        ),
        part=Part(options.shard_index, options.num_shards),
        overwrite=options.overwrite,
    )
    return 0


def _add_refine(kinds: argparse._SubParsersAction) -> None:
    refine = kinds.add_parser("refine", help="shards whose masks Segment Anything draws again")
    refine.add_argument("shards", metavar="SHARDS", help="folder or URL")
    refine.add_argument("--sam", required=True, help="folder or hub id, as facebook/sam-vit-base")
    refine.add_argument("--out", type=Path, required=True)
    refine.add_argument(
        "--least-iou",
        type=float,
        default=0.8,
        help="with the annotation's mask, to replace it; the default of 0.8 is our own choice, "
        "which was not measured with real weights of SAM",
    )
    refine.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add_parts(refine)
    refine.set_defaults(command=_prepare_refined)


def _prepare_refined(options: argparse.Namespace) -> int:
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from data_prep.parts import Part
    from data_prep.refine import Settings, prepare_refined

    prepare_refined(
        options.shards,
        options.out,
        Settings(options.sam, options.least_iou, options.device),
        part=Part(options.shard_index, options.num_shards),
        overwrite=options.overwrite,
    )
    return 0


def _add_verify(kinds: argparse._SubParsersAction) -> None:
    verify = kinds.add_parser("verify", help="check all shards in and below a folder")
    verify.add_argument("folder", type=Path)
    add_workers(verify)
    verify.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    from data_prep.verify import verify

    return 1 if verify(options.folder, options.workers).damages else 0


def _add_inspect(kinds: argparse._SubParsersAction) -> None:
    inspect = kinds.add_parser("inspect", help="contact sheet and statistics of a shard folder")
    inspect.add_argument("folder", type=Path)
    inspect.add_argument("--out", type=Path, help="default: FOLDER-inspect, beside it")
    inspect.add_argument("--samples", type=int, default=24, help="on the contact sheet")
    inspect.add_argument("--seed", type=int, default=0, help="which samples are drawn")
    inspect.set_defaults(command=_inspect)


def _inspect(options: argparse.Namespace) -> int:
    from data_prep.inspect import inspect

    inspect(options.folder, options.out, samples=options.samples, seed=options.seed)
    return 0


def _add_base(kinds: argparse._SubParsersAction) -> None:
    base = kinds.add_parser("base", help="first stage, text encoder, untrained UNet, judge")
    base.add_argument("--shards", type=Path, required=True, help="folder with train and val shards")
    base.add_argument("--out", type=Path, required=True)
    base.add_argument("--init", metavar="BASE", help="take its text encoder, go on from its stage")
    base.add_argument("--steps", type=int, default=20_000, help="of the first stage")
    base.add_argument("--unet-channels", type=_integers, default=(32, 64, 96), metavar="N,N,...")
    base.add_argument("--latent-channels", type=int, default=16)
    base.add_argument("--prediction", default="sample", choices=("sample", "v_prediction"))
    base.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    base.add_argument("--seed", type=int, default=0)
    base.set_defaults(command=_prepare_base)


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
        init=options.init,
    )
    prepare_base(
        options.shards, options.out, recipe=recipe, seed=options.seed, device=options.device
    )
    print(f"base: {options.out / 'base'}; figures: {options.out / 'base.json'}")
    return 0


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
