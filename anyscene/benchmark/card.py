"""The data card of a benchmark."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from anyscene.benchmark.prompts import DEMO_SOURCE
from anyscene.benchmark.scenes import ORIGINAL, RECOMBINED, BenchmarkScene

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


def _licences(scenes: Sequence[BenchmarkScene]) -> Counter[str]:
    """Source images by licence."""
    by_image = {
        image: licence
        for scene in scenes
        for image, licence in zip(scene["source_images"], scene["licences"], strict=True)
    }
    return Counter(by_image.values())
