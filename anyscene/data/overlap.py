"""Validation samples that are trained on, as far as that can be told without reading images."""

import sys
from collections.abc import Iterator, Sequence
from itertools import islice

from anyscene.config import Config
from anyscene.data.fetching import is_remote
from anyscene.data.index import ShardIndex, index_path
from anyscene.data.sample import ShardManifest, ShardRecord
from anyscene.data.sources import read_manifest
from anyscene.errors import DamageError

MOST_INDEX_BYTES = 32_000_000
"""Indexes of the training data beyond this, of some 150,000 samples, are not read: a second."""
SCENES = ("scene.png", "scene.jpg")

Content = tuple[int, int]  # size and CRC-32 of a scene: keys of two folders may be alike by chance


def warn_of_overlap(config: Config) -> None:
    """Say in one line where validation is on samples that are trained on.

    Nothing is said of `debug.overfit`, which does so on purpose.
    """
    data = config.data
    if data.val is None or config.debug.overfit:
        return
    shared, samples = overlap(data.val, data.val_samples, [data.train, *data.mix])
    if shared:
        print(
            f"WARNING: {shared} of the {samples} validation samples of data.val={data.val!r} are "
            "trained on: val/* will say how well these are learnt by heart; give data.val scenes "
            "of its own",
            file=sys.stderr,
        )


def overlap(val: str, most: int, train: Sequence[str]) -> tuple[int, int]:
    """How many of the first `most` samples of `val` are in the data sets `train`, too, and how many
    there are.

    A shard is known by the checksum in its manifest, wherever it lies; a sample of another shard by
    its index, if both are here. The same image in another size or crop is not found.
    """
    manifest, others = read_manifest(val), [read_manifest(location) for location in train]
    known = {record.sha256 for other in others for record in other.shards}
    scenes: set[Content] | None = None
    samples, shared = 0, 0
    for number, record in enumerate(manifest.shards):
        asked = min(record.samples, most - samples)
        samples += asked
        if record.sha256 in known:
            shared += asked
        elif asked:
            scenes = training_scenes(others) if scenes is None else scenes
            own = islice(scenes_of(manifest, number, record), asked)
            shared += sum(scene in scenes for scene in own)
    return shared, samples


def training_scenes(train: Sequence[ShardManifest]) -> set[Content]:
    """The scenes of the training data by its indexes; none where these are too large to read."""
    shards = [(own, n, record) for own in train for n, record in enumerate(own.shards)]
    paths = [index_path(own.path(n)) for own, n, _ in shards if not is_remote(own.location)]
    if sum(path.stat().st_size for path in paths if path.is_file()) > MOST_INDEX_BYTES:
        return set()
    return {scene for own, n, record in shards for scene in scenes_of(own, n, record)}


def scenes_of(manifest: ShardManifest, number: int, record: ShardRecord) -> Iterator[Content]:
    """The scenes of a shard by its index; nothing where that is not here or damaged."""
    if is_remote(manifest.location):
        return
    try:
        index = ShardIndex.read(index_path(manifest.path(number)), record)
    except (OSError, DamageError):  # a run can go without
        return
    for sample in range(len(index.keys)):
        checksums = index.crc32(sample)
        for suffix, _, size in index.members(sample):
            if suffix in SCENES and suffix in checksums:
                yield size, checksums[suffix]
