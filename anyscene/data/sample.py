"""The contract between `data_prep` (writes) and `anyscene.data` (reads): one sample, one batch.

A sample in a tar shard is four members with a common key that holds no dot:

    KEY.scene.png | KEY.scene.jpg   u8 H W 3   the real scene, the training target
    KEY.mask.png                    u8 H W     soft alpha of the foreground, 255 = foreground
    KEY.elements.png                u8 H W     element numbers 1..n as in `meta.elements`, 0 = none
    KEY.meta.json                   `Meta`

A cached sample has, in place of the scene, its latent's moments and what the hint needs of it:

    KEY.latents.safetensors               "mean" and "std" of the first stage's posterior, c h w,
                                          as the first stage gives them (not scaled)
    KEY.foreground.png | KEY.foreground.jpg   u8 H W 3   the scene where the mask is, else grey

`manifest.json` beside the shards is a `ShardManifest`, and `manifest_check` says what each field
must be; `NAME.tar.index` beside a shard is its index, see `anyscene.data.index`. A folder whose
data set was prepared in parts, on several machines, holds folders part-00000-of-00008, ..., each
with its own manifest.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import TYPE_CHECKING, Any, TypedDict, final

from anyscene.data.manifest_check import manifest_mistake
from anyscene.errors import InputError

if TYPE_CHECKING:  # data preparation reads this file and needs no torch
    from torch import Tensor

FORMAT = "anyscene-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
PART_NAME = re.compile(r"part-(\d{5})-of-(\d{5})")


class Element(TypedDict):
    """One object of the composited foreground."""

    annotation_id: int
    category: str
    box_xywh: list[float]  # pixels of this sample's scene
    area_share: float  # of the scene's area, [0, 1]
    mask_quality: float  # how well the mask's edge follows the image's, [0, 1]


class Meta(TypedDict):
    """What is known of a sample beside its pixels."""

    key: str
    source: str  # name of the data set, such as "coco" or "demo"
    image_id: int
    captions: list[str]  # at least one
    size: list[int]  # [height, width] of the scene in the shard
    original_size: list[int]  # [height, width] before resize and crop
    crop_top_left: list[int]  # [y, x] of the crop in the resized image
    bucket: str  # "HxW", equal to `size`
    licence: str
    elements: list[Element]
    truth: dict[str, Any] | None  # ground truth of procedural scenes, None for photos


@dataclass
class ShardRecord:
    """One tar file of a shard folder."""

    name: str
    samples: int
    bytes: int
    sha256: str
    bucket: str


@dataclass
class ShardManifest:
    """`manifest.json`: without time stamps, hosts and paths, for byte-identical preparation."""

    split: str
    seed: int
    source: str
    filters: dict[str, Any]
    rejected: dict[str, int]
    tools: dict[str, str]
    samples: int
    buckets: dict[str, int]
    shards: list[ShardRecord]
    base: dict[str, Any] | None = None  # of cached samples: encoder_sha256, dtype, ...
    format: str = FORMAT
    version: int = VERSION
    root: Path = field(default=Path(), compare=False)  # the folder it was read from; not written
    source_url: str | None = field(default=None, compare=False)  # instead of `root`; not written

    fetched = False  # its shards lie in `root`; those of a URL are `RemoteShards`

    @property
    def location(self) -> str:
        """The folder or URL that it was read from."""
        return self.source_url or str(self.root)

    def path(self, number: int) -> Path:
        """Where shard `number` lies, for a manifest of a folder here."""
        return self.root / self.shards[number].name

    def to_json(self) -> str:
        """The manifest's canonical text: sorted keys, a line feed at the end."""
        values = asdict(self)
        del values["root"], values["source_url"]
        return json.dumps(values, indent=1, sort_keys=True) + "\n"

    def sha256(self) -> str:
        """Checksum of the canonical text: that of the file which preparation writes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def is_consistent(self) -> bool:
        """Whether the shards have as many samples, of each size, as it says."""
        samples: Counter[str] = Counter()
        for record in self.shards:
            samples[record.bucket] += record.samples
        return samples == self.buckets and samples.total() == self.samples

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int] | None:
        """(c, h, w) of the latents of cached scenes of `size`; None where scenes are stored."""
        if self.base is None:
            return None
        factor = self.base["factor"]
        return self.base["channels"], size[0] // factor, size[1] // factor

    @classmethod
    def parse(cls, text: str | bytes, where: str) -> "ShardManifest":
        """The manifest in a text that came from `where`.

        Raises `InputError` for a foreign one, and for one with a field that is missing, unknown or
        not what it must be.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON ({error}); prepare the shards again") from None
        stated = values if isinstance(values, dict) else {}
        found = stated.get("format"), stated.get("version")
        if stated and found != (FORMAT, VERSION):
            raise InputError(
                f"{where} has format {shortened(found[0])} version {shortened(found[1])}; expected "
                f"{FORMAT!r} version {VERSION}: prepare the shards again"
            )
        if mistake := manifest_mistake(values):
            raise InputError(f"{where} is damaged ({mistake}); prepare the shards again")
        shards = [ShardRecord(**record) for record in values["shards"]]
        return cls(**{**values, "shards": shards})

    @classmethod
    def read(cls, folder: str | Path) -> "ShardManifest":
        """The manifest of a shard folder, or of its parts together.

        Raises `InputError` when it is missing or foreign, or a part is missing or made otherwise.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            if parts := part_names(entry.name for entry in Path(folder).glob("part-*-of-*")):
                return join_parts({name: cls.read(Path(folder) / name) for name in parts})
            raise InputError(
                f"no shards in {str(folder)!r}: {path} is missing; "
                "make them with `anyscene prepare coco` or `anyscene prepare demo`"
            )
        return replace(cls.parse(path.read_bytes(), str(path)), root=Path(folder))


def part_names(names: Iterable[str]) -> list[str]:
    """The folders of all parts of a data set, given those that there are; [] without any.

    Raises `InputError` where they are parts of different divisions.
    """
    matches = [match for name in names if (match := PART_NAME.fullmatch(name))]
    totals = sorted({int(match[2]) for match in matches})
    if len(totals) > 1:
        raise InputError(
            f"parts of {totals[0]} and of {totals[1]} lie in one folder; "
            "remove those of the division that is not wanted"
        )
    return (
        [f"part-{number:05d}-of-{totals[0]:05d}" for number in range(totals[0])] if totals else []
    )


def join_parts(parts: Mapping[str, ShardManifest]) -> ShardManifest:
    """The manifest of all parts by their folders' names.

    Raises `InputError` where they were not made with the same arguments.
    """
    manifests = list(parts.values())
    first = manifests[0]
    for name, manifest in parts.items():
        for field_name in ("split", "seed", "source", "filters", "base", "tools"):
            theirs, ours = getattr(manifest, field_name), getattr(first, field_name)
            if theirs != ours:
                raise InputError(
                    f"{manifest.location} was made with {field_name}={theirs}, but "
                    f"{first.location} with {ours}; prepare {name} again with the same arguments"
                )
    return replace(
        first,
        rejected=dict(sum((Counter(manifest.rejected) for manifest in manifests), Counter())),
        samples=sum(manifest.samples for manifest in manifests),
        buckets=dict(sum((Counter(manifest.buckets) for manifest in manifests), Counter())),
        shards=[
            replace(record, name=f"{name}/{record.name}")
            for name, manifest in parts.items()
            for record in manifest.shards
        ],
        root=first.root.parent,
    )


class StoredBatch(TypedDict):
    """What a loader gives, as it was stored: B samples of one size."""

    key: list[str]
    counter: "Tensor"  # B int64, the source slot: all randomness is a function of (seed, counter)
    data_set: "Tensor"  # B int64, number in the mix, 0 is `data.train`
    mask_uint8: "Tensor"  # B 1 H W, 255 = foreground
    elements_uint8: "Tensor"  # B 1 H W, element numbers 1..n, 0 = none
    prompt: list[str]
    original_size: "Tensor"  # B 2 int64, height and width before resize and crop
    crop_top_left: "Tensor"  # B 2 int64, y and x
    truth: list[dict[str, Any] | None]
    replaced: int  # samples found damaged while this batch was made
    damage: list[str]  # one line for each of them: shard, key and reason


@final
class HostBatch(StoredBatch):
    """Samples with their scene."""

    scene_uint8: "Tensor"  # B 3 H W, RGB


@final
class CachedHostBatch(StoredBatch):
    """Cached samples."""

    foreground_uint8: "Tensor"  # B 3 H W, RGB: the scene where the mask is, else grey
    latent_mean: "Tensor"  # B c h w, not scaled, in the dtype of the cache
    latent_std: "Tensor"  # B c h w


AnyHostBatch = HostBatch | CachedHostBatch
