"""`anyscene prepare inspect`: a contact sheet and a page of statistics about a shard folder."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jinja2

from anyscene.data.sample import ShardManifest
from anyscene.errors import DamageError, InputError
from anyscene.files import replace_file
from anyscene.report import inline_image
from data_prep.inspect_sheet import contact_sheet
from data_prep.inspect_statistics import BINS, Statistics, gather
from data_prep.rejected import images_left_out, kept_masks, left_out

SHEET_NAME = "contact_sheet.png"
PAGE_NAME = "statistics.html"
SHOWN_CATEGORIES = 100
MOST_BARS = 20


@dataclass(frozen=True)
class Bar:
    """A line in a table of counts."""

    label: str
    count: int
    share: float  # of the table's total


def inspect(folder: Path, out: Path | None = None, *, samples: int = 24, seed: int = 0) -> Path:
    """Write a sheet of some samples and a page about all of them to `out`, and return it.

    By default that lies beside the shards, so that nothing is added to them. Raises `InputError`
    for a folder without shards, `DamageError` for one whose manifest contradicts itself or whose
    shards cannot be read.
    """
    if samples < 1:
        raise InputError(f"samples={samples} must be at least 1")
    manifest = ShardManifest.read(folder)
    if not manifest.samples:
        raise InputError(f"{folder} holds no samples: see `rejected` in its manifest")
    if not manifest.is_consistent():
        raise DamageError(f"{folder}: the manifest's numbers of samples do not agree")
    statistics = gather(manifest)
    sheet = contact_sheet(manifest, samples, seed)
    out = out or folder.resolve().with_name(f"{folder.resolve().name}-inspect")
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / SHEET_NAME, lambda part: sheet.save(part, format="PNG"))
    page = render(manifest, statistics, out / SHEET_NAME)
    replace_file(out / PAGE_NAME, lambda part: part.write_text(page, encoding="utf-8"))
    print(f"{manifest.samples} samples: {out / SHEET_NAME} and {out / PAGE_NAME}")
    return out


def render(manifest: ShardManifest, statistics: Statistics, sheet: Path) -> str:
    """The page, with the sheet inside."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyscene"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    categories = sorted(
        statistics.categories.items(), key=lambda item: (-item[1].elements, item[0])
    )
    return environment.get_template("statistics.html.j2").render(
        manifest=manifest,
        statistics=statistics,
        summary=summary(manifest, statistics),
        sheet=inline_image(sheet),
        left_out=reasons(manifest),
        kept_masks=bars(kept_masks(manifest.rejected).most_common()),
        categories=categories[:SHOWN_CATEGORIES],
        categories_left_out=len(categories[SHOWN_CATEGORIES:]),
        tables={
            "Foreground's share of the scene": by_share(statistics.shares),
            "Mask quality of an element": by_share(statistics.quality),
            "Elements in a sample": by_number(statistics.elements),
            "Words in a caption": by_number(statistics.words),
            "Captions of a sample": by_number(statistics.captions),
            "Bucket, height x width": bars(Counter(manifest.buckets).most_common()),
        },
        members=[
            (name, size, size / statistics.samples) for name, size in statistics.bytes.most_common()
        ],
    )


def summary(manifest: ShardManifest, statistics: Statistics) -> dict[str, str]:
    """The figures under the title."""
    images = images_left_out(manifest.rejected) + manifest.samples
    size = sum(record.bytes for record in manifest.shards)
    words = statistics.words
    return {
        "Samples": f"{manifest.samples:,}",
        "Of images read": f"{images:,}, of which {manifest.samples / images:.1%} were kept",
        "Elements in a sample": f"{mean(statistics.elements):.2f}",
        "Captions of a sample": f"{mean(statistics.captions):.2f}",
        "Words in a caption": f"{mean(words):.1f}, from {min(words)} to {max(words)}",
        "Captions naming no category": (
            f"{statistics.unnamed_captions:,} of {statistics.nameable_captions:,}"
        ),
        "Bytes a sample": f"{size / manifest.samples:,.0f}",
        "All shards": f"{len(manifest.shards):,}, {size / 1e6:,.1f} MB",
        "Split, source, seed": f"{manifest.split}, {manifest.source}, {manifest.seed}",
    }


def reasons(manifest: ShardManifest) -> dict[str, list[Bar]]:
    """Why something was left out, by what it is: image, group or element; shares are of what was
    left out, of images those of all that were read."""
    kinds: dict[str, Counter[str]] = {"image": Counter(), "group": Counter(), "element": Counter()}
    for reason, count in left_out(manifest.rejected).items():
        kind, _, why = reason.partition(": ")
        kinds.setdefault(kind, Counter())[why] += count
    read = manifest.samples + images_left_out(manifest.rejected)
    return {
        kind: bars(counts.most_common(), total=read if kind == "image" else None)
        for kind, counts in kinds.items()
    }


def bars(counts: Iterable[tuple[object, int]], total: int | None = None) -> list[Bar]:
    """Lines whose shares are of `total`, by default of their sum."""
    found = list(counts)
    whole = sum(count for _, count in found) if total is None else total
    return [Bar(str(label), count, count / whole) for label, count in found]


def by_number(counts: Counter[int]) -> list[Bar]:
    """A line a number, or a range of numbers where they are many."""
    low, high = min(counts), max(counts)
    step = math.ceil((high - low + 1) / MOST_BARS)
    grouped: Counter[int] = Counter()
    for number, count in counts.items():
        grouped[(number - low) // step] += count
    starts = {group: low + group * step for group in sorted(grouped)}
    return bars(
        (start if step == 1 else f"{start} to {start + step - 1}", grouped[group])
        for group, start in starts.items()
    )


def by_share(counts: Counter[int]) -> list[Bar]:
    """A line a bin of [0, 1] between the first and the last that are not empty."""
    return bars(
        (f"{number / BINS:.0%} to {(number + 1) / BINS:.0%}", counts[number])
        for number in range(min(counts), max(counts) + 1)
    )


def mean(counts: Counter[int]) -> float:
    """Of numbers, each as often as it is counted."""
    return sum(number * count for number, count in counts.items()) / counts.total()
