"""The data card of a benchmark."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from anyscene.benchmark.prompts import DEMO_SOURCE
from anyscene.benchmark.scenes import ORIGINAL, PAIR, RECOMBINED, SUBJECT, BenchmarkScene

RE_CREATION = """\
This is a **re-creation**, not the benchmark of the AnyScene paper (CVPR 2024), whose list of
images, elements and prompts is not public. It follows the paper's description: COCO objects of 80
categories cut by their segmentation and put on a canvas, the image's caption as prompt. Which
images, how many, which crops and how elements are recombined is decided here. Figures on it are
comparable with one another, and with nothing that is printed in the paper.
"""

PROCEDURAL = """\
Made of procedural scenes, for trying the evaluation out: their true shadows are known, so that the
harmony of light can be measured. It is no substitute for photos, and has nothing to do with the
data of the AnyScene paper (CVPR 2024).
"""


def data_card(record: dict[str, Any], scenes: Sequence[BenchmarkScene]) -> str:
    """README.md of a benchmark's folder."""
    arguments = record["arguments"]
    settings = arguments["settings"]
    layouts = record["layouts"]
    licences = _licences(scenes)
    procedural = arguments["source"] == DEMO_SOURCE
    rows = "".join(
        f"| {name} | {counts['scenes']} | {counts['elements']} |\n"
        for name, counts in record["categories"].items()
    )
    return f"""\
# Benchmark of composited foregrounds

{PROCEDURAL if procedural else RE_CREATION}
|  |  |
| --- | --- |
| scenes | {record["scenes"]} |
| in their own layout | {layouts.get(ORIGINAL, 0)} |
| recombined | {layouts.get(RECOMBINED, 0)} |
| real images | {record["real_images"]} |
| asked for | {settings["size"]} scenes, {settings["recombined_share"]:g} of them recombined |
| seed | {settings["seed"]} |
| source | {arguments["source"]} |
| manifest of the shards, sha256 | `{arguments["shards_sha256"]}` |

- **Own layout**: the image's elements where they were; the real scene is in `real/`.
- **Recombined**: the elements of one image and, in free places beside them, one element each of one
  or two others, at its own size and height over the ground. No method can have seen them in one
  light. There is no real scene; the prompt is the first image's caption with the others named.
- **Choice**: stratified by category: in each turn the category shown least so far is served, the
  rarest in the source first. Elements that are cut off by the border, touch a crowd or are too
  small or large were left out when the shards were prepared; touching elements stay together.
- **Reference of FID**: the images in `real/`, cropped as the canvases are.
- **Frozen**: `benchmark.json` has every file's sha256; what changed is refused.

## Categories

| category | scenes | elements |
| --- | --- | --- |
{rows}
## Licences of the source images

{"".join(f"- {name}: {count}" + chr(10) for name, count in sorted(licences.items()))}
The images belong to their photographers; a licence that forbids passing them on binds this folder,
too. Masks and captions are the source's.
"""


def subject_card(record: dict[str, Any]) -> str:
    """README.md of a subject set."""
    settings, layouts = record["arguments"]["settings"], record["layouts"]
    photos = sum(len(own["photos"]) for own in record["subjects"].values())
    cut_by = f", otherwise {settings['matting']}" if settings["matting"] else ""
    rows = "".join(
        f"| {name} | {own['noun']} | {len(own['photos'])} | {'yes' if own['cut_out'] else 'no'} |\n"
        for name, own in record["subjects"].items()
    )
    return f"""\
# Subject set

Subjects known by a few photos, to be shown in scenes that a prompt describes. Methods that are
fine-tuned on a subject (DreamBooth, Custom Diffusion) see all of its photos; methods that take a
composited foreground see one cut-out, put on a canvas by a fixed rule.

|  |  |
| --- | --- |
| scenes of one subject | {layouts.get(SUBJECT, 0)} |
| scenes of two | {layouts.get(PAIR, 0)} |
| subjects | {len(record["subjects"])} |
| photos | {photos} |
| seed | {settings["seed"]} |
| cut out by | masks and alpha{cut_by} |

- **Prompt**: the subject's noun stands in the prompt of the list; what a method puts there in its
  place (a rare token and the noun) is its own affair. CLIP-Score is of the list's prompt, for all.
- **No real scenes**: there is no reference of FID, KID, CMMD or FD-DINOv2.
- **Frozen**: `benchmark.json` has every file's sha256; what changed is refused.

| subject | noun | photos | cut out |
| --- | --- | --- | --- |
{rows}
The photos belong to their photographers, under the licences of the data set they came with.
"""


def _licences(scenes: Sequence[BenchmarkScene]) -> Counter[str]:
    """Source images by licence."""
    by_image = {
        image: licence
        for scene in scenes
        for image, licence in zip(scene["source_images"], scene["licences"], strict=True)
    }
    return Counter(by_image.values())
