"""`anyscene prepare folder`."""

import argparse
from pathlib import Path

from anyscene.commands.prepare_options import (
    add_common,
    add_filters,
    add_sizes,
    add_writing,
    sample_settings,
    tell_shards,
    writing,
)

FORMS = """\
An image's foreground is told by the first of these that is there:
  NAME_mask.png or NAME.mask.png beside NAME.jpg, or masks/NAME.png for images/NAME.jpg;
  NAME.json beside it, in SA-1B's form;
  its own alpha channel, where the scene is kept under alpha 0 (PNG, WebP).
Cut-outs, which have nothing under alpha 0, are elements for `generate`, not samples.
Images are .jpg, .jpeg, .png and .webp files in and below SOURCE, folders that are links too;
endings count in capitals too.

A binary mask has 0 and 255, soft edges allowed: each part that touches no other is an element. An
id mask has small grey values, or a colour palette: each value is an element (0 none, 255 void).
A mask that can be read in both ways is left out unless --masks says which it is.

Captions are the lines of NAME.txt beside the image; or --captions FILE for all: JSON {name: caption
or [caption]} or [{file_name, caption}], CSV or parquet with the columns file_name and caption.
"""


def add_folder(kinds: argparse._SubParsersAction) -> None:
    folder = kinds.add_parser(
        "folder",
        help="shards of any folder of images with masks, alpha or SA-1B's JSON",
        epilog=FORMS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    folder.add_argument("source", type=Path, metavar="SOURCE", help="folder of images")
    folder.add_argument("--out", type=Path, required=True)
    folder.add_argument("--captions", type=Path, help="JSON, CSV or parquet; default: NAME.txt")
    folder.add_argument("--default-caption", metavar="TEXT", help="of images that have none")
    folder.add_argument("--masks", default="auto", choices=("auto", "binary", "ids"))
    folder.add_argument(
        "--orientation",
        default="by-size",
        choices=("by-size", "upright", "stored"),
        help="of an image with EXIF under a mask in another file: as the mask's size says, as "
        "viewers show it, as it is stored",
    )
    folder.add_argument(
        "--min-predicted-iou", type=float, default=0.88, help="of a mask in SA-1B's form"
    )
    folder.add_argument(
        "--min-stability-score", type=float, default=0.95, help="of a mask in SA-1B's form"
    )
    folder.add_argument("--category", default="object", help="of all elements")
    folder.add_argument("--licence", default="unknown", help="of all images")
    folder.add_argument("--name", default="folder", help="of the data set: begins all keys")
    add_sizes(folder)
    add_filters(folder)
    add_writing(folder)
    add_common(folder)
    folder.set_defaults(command=_prepare_folder)


def _prepare_folder(options: argparse.Namespace) -> int:
    from data_prep.folder import prepare_folder
    from data_prep.folder_masks import MaskKind
    from data_prep.folder_sample import Orientation, Reading
    from data_prep.segment_anything import MaskScores

    reading = Reading(
        source=options.source,
        masks=MaskKind(options.masks),
        orientation=Orientation(options.orientation),
        scores=MaskScores(options.min_predicted_iou, options.min_stability_score),
        category=options.category,
        licence=options.licence,
        default_caption=options.default_caption,
    )
    settings = sample_settings(options, options.name)
    return tell_shards(
        prepare_folder(
            reading, options.out, settings, captions=options.captions, **writing(options)
        )
    )
