"""`anyscene prepare KIND`."""

import argparse
import os
from pathlib import Path


def add_prepare(commands: argparse._SubParsersAction) -> None:
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
