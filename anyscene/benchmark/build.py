"""`anyscene benchmark build`: shards or COCO annotations -> a frozen benchmark."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from anyscene.benchmark.card import data_card
from anyscene.benchmark.freeze import freeze, record_of, seal
from anyscene.benchmark.layouts import LARGEST_GUEST, original, recombined
from anyscene.benchmark.prompts import DEMO_SOURCE, can_host, recombined_prompt
from anyscene.benchmark.scenes import ORIGINAL, REAL, RECOMBINED, Benchmark, BenchmarkScene
from anyscene.benchmark.sources import Source, SourceReader, chance, stratified
from anyscene.data.sample import Element, Meta, ShardManifest
from anyscene.errors import InputError
from data_prep.preparation import tool_versions

GUEST_CHANCES = (0.7, 0.3)  # of one and two guests
SPARE_HOSTS = 8  # planned for one that is wanted: some have no room for any guest
SPARE_GUESTS = 5  # further ones, for those that find no room


@dataclass(frozen=True)
class BuildSettings:
    """What decides about a benchmark, beside its source."""

    size: int  # scenes, at most
    recombined_share: float = 0.5
    seed: int = 0

    def check(self) -> None:
        """Raises `InputError` for values that cannot work."""
        if self.size < 1:
            raise InputError(f"--size {self.size} must be at least 1")
        if not 0 <= self.recombined_share <= 1:
            raise InputError(f"--recombined {self.recombined_share:g} must be between 0 and 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed} must not be negative")


def build(
    shards: ShardManifest, out: Path, settings: BuildSettings, *, overwrite: bool = False
) -> Benchmark:
    """Write the benchmark folder `out`, whole or not at all, and return it.

    The same shards, settings and library versions give the same bytes. A folder that was built with
    the same arguments is checked and left as it is.

    Raises:
        InputError: impossible settings, no scene, or `out` holds something else.
        DamageError: `out` was built with these arguments but has changed.
    """
    settings.check()
    arguments = {
        "settings": asdict(settings),
        "source": shards.source,
        "shards_sha256": shards.sha256(),
        "tools": tool_versions(),
    }
    return freeze(
        out, arguments, lambda part: _write(part, shards, settings, arguments), overwrite=overwrite
    )


def _write(
    folder: Path, shards: ShardManifest, settings: BuildSettings, arguments: dict[str, Any]
) -> None:
    for name in ("canvas", "masks", "elements", REAL):
        (folder / name).mkdir(parents=True)
    reader = SourceReader(shards)
    plans = plan_scenes(reader.metas, settings)
    if not plans:
        raise InputError(f"{shards.location!r} has no sample to build a scene of")
    scenes: list[BenchmarkScene] = []
    counts = {ORIGINAL: len(plans), RECOMBINED: recombined_scenes(settings)}
    for plan in tqdm(plans, "build", unit="scene", disable=None):
        if counts[plan.layout] == 0:
            continue
        scene = _scene(folder, len(scenes), plan, reader, settings.seed)
        if scene is not None:
            scenes.append(scene)
            counts[plan.layout] -= 1
    keys = {meta["image_id"]: meta["key"] for meta in reader.metas}
    for image in {image for scene in scenes for image in scene["source_images"]}:
        source = reader.read(keys[image])
        (folder / _real_name(source)).write_bytes(source.scene_bytes)
    record = record_of(scenes, arguments)
    seal(folder, scenes, record, data_card(record, scenes))


@dataclass(frozen=True)
class Plan:
    """What a scene is made of: the host, and for a recombined one its possible guests."""

    layout: str
    host: Meta
    guests: tuple[Meta, ...] = ()
    guest_count: int = 0


def plan_scenes(metas: Sequence[Meta], settings: BuildSettings) -> list[Plan]:
    """Which samples become which scenes; originals come first, spare recombined ones last."""
    wanted = recombined_scenes(settings)
    alone = stratified(metas, settings.size - wanted, settings.seed, _categories)
    plans = [Plan(ORIGINAL, meta) for meta in alone]
    may_host = [meta for meta in metas if can_host(meta)]
    hosts = stratified(may_host, SPARE_HOSTS * wanted, settings.seed + 1, _categories)
    may_visit = [meta for meta in metas if _may_visit(meta)]
    used: Counter[str] = Counter()
    for host in hosts:
        random = _random(settings.seed, host["key"])
        count = 1 + int(random.choice(len(GUEST_CHANCES), p=GUEST_CHANCES))
        order = sorted(
            (meta for meta in may_visit if _fits(host, meta)),
            key=lambda meta: (used[meta["key"]], chance(settings.seed, host["key"], meta["key"])),
        )
        guests = tuple(_of_several_categories(order, count + SPARE_GUESTS))
        used.update(meta["key"] for meta in guests[:count])
        plans.append(Plan(RECOMBINED, host, guests, count))
    return plans


def recombined_scenes(settings: BuildSettings) -> int:
    """How many of the scenes are to be recombined."""
    return round(settings.size * settings.recombined_share)


def _categories(meta: Meta) -> set[str]:
    return {element["category"] for element in meta["elements"]}


def _may_visit(meta: Meta) -> bool:
    """A guest's element must be the one that is named: the only one of a procedural scene."""
    if meta["source"] == DEMO_SOURCE and (len(meta["elements"]) > 1 or not can_host(meta)):
        return False
    return any(element["area_share"] <= LARGEST_GUEST for element in meta["elements"])


def _fits(host: Meta, guest: Meta) -> bool:
    return guest["bucket"] == host["bucket"] and not _categories(host) & _categories(guest)


def _of_several_categories(metas: Sequence[Meta], count: int) -> Iterator[Meta]:
    """The first ones that have no category of those before."""
    shown: set[str] = set()
    for meta in metas:
        if count and not shown & _categories(meta):
            shown |= _categories(meta)
            count -= 1
            yield meta


def _random(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng(chance(seed, "layout", key))


def _scene(
    folder: Path, number: int, plan: Plan, reader: SourceReader, seed: int
) -> BenchmarkScene | None:
    """Write the files of a scene; None where no guest found a place."""
    host = reader.read(plan.host["key"])
    prompt = plan.host["captions"][0]
    placed: list[tuple[Source, Element]] = []
    if plan.layout == ORIGINAL:
        canvas = original(host)
    else:
        guests = [reader.read(meta["key"]) for meta in plan.guests]
        random = _random(seed, plan.host["key"])
        canvas, placed, centres = recombined(host, guests, random, plan.guest_count)
        if not placed:
            return None
        prompt = recombined_prompt(
            plan.host, [(source.meta, element) for source, element in placed], centres
        )
    scene_id = f"{plan.layout[0]}{number:05d}"
    own = [host, *(source for source, _ in placed)]
    names = {kind: f"{kind}/{scene_id}.png" for kind in ("canvas", "masks", "elements")}
    for kind, pixels in zip(names, (canvas.rgba, canvas.alpha, canvas.numbers), strict=True):
        _write_png(folder / names[kind], pixels)
    height, width = canvas.alpha.shape
    return BenchmarkScene(
        scene_id=scene_id,
        layout=plan.layout,
        prompt=prompt,
        height=height,
        width=width,
        canvas=names["canvas"],
        mask=names["masks"],
        elements_map=names["elements"],
        elements=canvas.elements,
        real=_real_name(host) if plan.layout == ORIGINAL else None,
        source_images=[source.meta["image_id"] for source in own],
        licences=[source.meta["licence"] for source in own],
        truth=plan.host["truth"] if plan.layout == ORIGINAL else None,
    )


def _real_name(source: Source) -> str:
    return f"{REAL}/{source.meta['key']}{Path(source.scene_name).suffix}"


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"{path} could not be written")
