"""Options that several kinds of `anyscene prepare` share, and what they stand for."""

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anyscene.data.sample import ShardManifest
    from data_prep.coco_sample import Settings


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    add_workers(parser)


def add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")


def add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=512, help="pixels a side of square scenes")
    parser.add_argument(
        "--buckets",
        metavar="512-area | 1024-area | HxW,...",
        help="sizes of scenes, for each image the nearest in aspect; default: the square",
    )
    parser.add_argument(
        "--min-scale",
        type=float,
        default=0.5,
        help="least pixels of an image for one of the scene along a side; 0.5: enlarged to double",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--soften", type=float, default=1.0, help="sigma of soft edges in pixels")
    parser.add_argument("--min-area-share", type=float, default=0.02, help="of a foreground")
    parser.add_argument("--max-area-share", type=float, default=0.8, help="of a foreground")
    parser.add_argument("--min-mask-quality", type=float, default=0.0, help="of each element, to 1")
    parser.add_argument("--limit", type=int, help="the first images only")


def add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="train", help="name in the shards' names")
    parser.add_argument("--shard-samples", type=int, default=512, help="samples in a shard")
    add_parts(parser)


def add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shard-index", type=int, default=0, help="which part to make, from 0")
    parser.add_argument("--num-shards", type=int, default=1, help="parts, one for each machine")
    parser.add_argument("--overwrite", action="store_true", help="replace what OUT holds")


def sample_settings(options: argparse.Namespace, source: str) -> "Settings":
    """What `add_sizes` and `add_filters` say of samples."""
    from data_prep.buckets import parse_buckets
    from data_prep.coco_sample import Settings

    return Settings(
        source=source,
        seed=options.seed,
        buckets=parse_buckets(options.buckets or f"{options.size}x{options.size}"),
        soften=options.soften,
        min_area_share=options.min_area_share,
        max_area_share=options.max_area_share,
        min_scale=options.min_scale,
        min_mask_quality=options.min_mask_quality,
    )


def writing(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_writing`, `add_workers` and `--limit` say of shards."""
    from data_prep.parts import Part

    return {
        "split": options.split,
        "workers": options.workers,
        "limit": options.limit,
        "shard_samples": options.shard_samples,
        "overwrite": options.overwrite,
        "part": Part(options.shard_index, options.num_shards),
    }


def tell_shards(manifest: "ShardManifest") -> int:
    """Say how many samples there are, and what was left out and why, as `verify` does; returns the
    exit code."""
    print(f"{manifest.root}: {manifest.samples} samples")
    for reason, count in sorted(manifest.rejected.items()):
        print(f"  {'left out':<11}{count:>8}  {reason}")
    return 0
