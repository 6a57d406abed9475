"""`anyscene metrics`: what figures of generated images are compared with."""

import argparse
from pathlib import Path

from anyscene.errors import InputError


def add_metrics(commands: argparse._SubParsersAction) -> None:
    metrics = commands.add_parser("metrics", help="statistics of real images, for FID and its like")
    actions = metrics.add_subparsers(required=True, metavar="ACTION")
    reference = actions.add_parser(
        "reference", help="write the statistics that metrics.reference names"
    )
    reference.add_argument("images", type=Path, metavar="IMAGES", help="folder of real images")
    reference.add_argument("--out", type=Path, required=True, help="folder to write")
    reference.add_argument("--inception", help="as metrics.inception: for FID and KID")
    reference.add_argument("--inception-sha256", help="as metrics.inception_sha256")
    reference.add_argument("--clip", help="as metrics.cmmd_clip or metrics.clip: for CMMD")
    reference.add_argument("--dino", help="as metrics.dino: for FD-DINOv2")
    reference.add_argument("--micro-batch", type=int, default=16, help="as metrics.micro_batch")
    reference.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    reference.set_defaults(command=_reference)


def _reference(options: argparse.Namespace) -> int:
    if not (options.inception or options.clip or options.dino):
        raise InputError("nothing to compute: give --inception, --clip or --dino")
    if options.micro_batch < 1:
        raise InputError(f"--micro-batch {options.micro_batch} must be at least 1")
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.config import MetricsConfig
    from anyscene.devices import choose_device
    from anyscene.metrics.make_reference import list_images, make_references
    from anyscene.metrics.networks import Networks

    list_images(options.images)  # before anything large is loaded
    names = ("inception", "inception_sha256", "clip", "dino", "micro_batch")
    networks = Networks(MetricsConfig(**{name: getattr(options, name) for name in names}))
    loaders = {
        "inception": networks.inception,
        "clip": lambda: networks.clip("clip"),
        "dinov2": networks.dino,
    }
    given = {"inception": options.inception, "clip": options.clip, "dinov2": options.dino}
    device = choose_device(options.device)
    extractors = {name: loaders[name]().to(device) for name, path in given.items() if path}
    count = make_references(options.images, extractors, options.out, device)
    print(f"{', '.join(extractors)} of {count} images: {options.out}")
    return 0
