"""Shards -> shards with masks that Segment Anything has drawn again.

Annotated outlines are coarse. SAM (Kirillov et al., "Segment Anything", 2023) is asked for the
elements where the annotation has them, and its mask is taken where the two agree enough to be of
the same thing; otherwise the annotation's stays.
"""

import math
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from anyscene.config import DataConfig
from anyscene.data.reader import ShardReader
from anyscene.data.sample import ShardManifest
from anyscene.data.sources import open_shards, read_manifest, shard_cache
from anyscene.devices import choose_device
from anyscene.errors import InputError
from anyscene.metrics.sam import SamSegmenter
from anyscene.models.base import weights_sha256
from data_prep.inspect_statistics import read_descriptions
from data_prep.parts import WHOLE, Part
from data_prep.preparation import Arguments, finished_manifest, tool_versions
from data_prep.refine_sample import annotated_masks, refined_members
from data_prep.rejected import kept_masks
from data_prep.shard_by_shard import Batch, Members, Work, check_out, write_shards

TOOLS = ("torch", "transformers", "numpy", "opencv-python-headless", "scipy")


@dataclass(frozen=True)
class Settings:
    """How masks are refined."""

    sam: str  # folder or hub id
    least_iou: float = 0.8  # of SAM's mask with the annotation's, to be taken; not yet measured
    device: str = "auto"  # auto, cpu or cuda

    def check(self) -> None:
        """Raises `InputError` for values that cannot work."""
        if not 0 < self.least_iou <= 1:
            raise InputError(
                f"--least-iou {self.least_iou} must be above 0 and at most 1, which takes only "
                "masks that are the annotation's"
            )


def prepare_refined(
    shards: str, out: Path, settings: Settings, *, part: Part = WHOLE, overwrite: bool = False
) -> ShardManifest:
    """Write `shards`, a folder or a URL, with refined masks to the folder `out`.

    A folder that was finished with the same arguments is left as it is, and one that was begun is
    continued; `overwrite` replaces one that was made otherwise. Damaged samples are left out, masks
    that were not taken counted in the manifest. Raises `InputError` for arguments and shards that
    cannot be used.
    """
    settings.check()
    source = read_manifest(shards)
    if source.base is not None:
        raise InputError(f"{shards!r} is a cache; refine the shards that it was made from")
    soften = _softness(source)
    check_out(source, out, part)
    device = choose_device(settings.device)
    sam = SamSegmenter.from_pretrained(settings.sam)
    arguments = _arguments(source, sam, settings, device)
    if not overwrite and (manifest := finished_manifest(out, arguments, part)):
        print(f"{out}: {manifest.samples} samples, made with the same arguments, are there already")
        return manifest
    sam.to(device)
    convert = partial(_refined, sam, settings.least_iou, soften)
    with closing(ShardReader(open_shards(shards, shard_cache(DataConfig())))) as reader:
        work = Work(source, reader, convert, 1, checked=True)
        manifest = write_shards(work, arguments, out, part)
    earlier = Counter(source.rejected if part.index == 0 else {})
    print(f"{part.folder(out)}: {_told(manifest, earlier)}")
    return manifest


def _softness(source: ShardManifest) -> float:
    """The sigma in pixels by which the source's edges were softened, which new ones are too."""
    sigma = source.filters.get("soften", 0)
    if not isinstance(sigma, int | float) or not 0 <= sigma < math.inf:
        raise InputError(
            f"{source.location!r} was made with soften={sigma!r}, which must be a number of "
            "pixels; prepare the shards again"
        )
    return float(sigma)


def _arguments(
    source: ShardManifest, sam: SamSegmenter, settings: Settings, device: str
) -> Arguments:
    refinement = {
        "source_manifest_sha256": source.sha256(),
        "sam_sha256": weights_sha256(sam),
        "least_iou": settings.least_iou,
        "device": device,  # decides the last bits
    }
    return Arguments(
        source.split,
        source.source,
        source.seed,
        source.filters | refinement,
        source.tools | tool_versions(TOOLS),
    )


def _refined(
    sam: SamSegmenter, least_iou: float, soften: float, batch: Batch, rejected: Counter[str]
) -> list[Members]:
    device = next(sam.parameters()).device
    refined = []
    for sample, members in batch:
        image = torch.from_numpy(sample.image).to(device).permute(2, 0, 1).float() / 255
        masks = torch.from_numpy(annotated_masks(sample)).to(device).float()
        found = (sam.find_each(image, masks) > 0.5).cpu().numpy()
        refined.append(refined_members(sample, members, found, least_iou, soften, rejected))
    return refined


def _told(manifest: ShardManifest, earlier: Counter[str]) -> str:
    """How many masks were refined, and why the others were not; without those of `earlier`."""
    elements = sum(
        len(meta["elements"])
        for record in manifest.shards
        for meta, _ in read_descriptions(manifest.root / record.name, record)
    )
    kept = kept_masks(manifest.rejected) - kept_masks(earlier)
    refined = f"{elements - kept.total()} of {elements} masks refined"
    reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(kept.items()))
    return f"{refined}; annotations kept: {reasons}" if kept else refined
