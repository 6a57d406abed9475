"""`anyscene COMMAND`: parsing only. Nothing heavy is imported before a command needs it."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from anyscene import __version__
from anyscene.errors import AnySceneError, DamageError

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code: 0, 1 (damage, failed run) or 2 (a user's mistake)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.command(options)
    except AnySceneError as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 2
    except DamageError as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="anyscene", description="Scene customization.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_train(commands)
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

    base = kinds.add_parser("base", help="first stage, text encoder, untrained UNet, judge")
    base.add_argument("--shards", type=Path, required=True, help="folder with train and val shards")
    base.add_argument("--out", type=Path, required=True)
    base.add_argument("--steps", type=int, default=20_000, help="of the first stage")
    base.add_argument("--unet-channels", type=_integers, default=(32, 64, 96), metavar="N,N,...")
    base.add_argument("--latent-channels", type=int, default=16)
    base.add_argument("--prediction", default="sample", choices=("sample", "v_prediction"))
    base.add_argument("--device", default="cpu")
    _add_common(base)
    base.set_defaults(command=_prepare_base)


def _add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train as a config file says, or go on training")
    train.add_argument("config", type=Path)
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.set_defaults(command=_train)


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


def _prepare_base(options: argparse.Namespace) -> int:
    from data_prep.demo_base import BaseRecipe, prepare_base

    recipe = BaseRecipe(
        unet_channels=options.unet_channels,
        latent_channels=options.latent_channels,
        first_stage_steps=options.steps,
        prediction_type=options.prediction,
    )
    figures = prepare_base(
        options.shards, options.out, recipe=recipe, seed=options.seed, device=options.device
    )
    print(figures)
    return 0


def _train(options: argparse.Namespace) -> int:
    from anyscene.config_io import load_config

    config = load_config(options.config, options.overrides)
    from anyscene.train import train

    print(f"run folder: {train(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
