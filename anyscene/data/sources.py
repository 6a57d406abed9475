"""Shard folders wherever they lie: here, behind a URL or a command, or several in a mix."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from anyscene.config import DataConfig
from anyscene.data.fetching import fetch_bytes, is_remote, list_names
from anyscene.data.sample import (
    MANIFEST_NAME,
    ShardManifest,
    ShardRecord,
    join_parts,
    part_names,
)
from anyscene.data.shard_cache import ShardCache
from anyscene.errors import InputError


class Shards(Protocol):
    """Shards in an order, each a local file when it is asked for. A `ShardManifest` is one."""

    @property
    def shards(self) -> Sequence[ShardRecord]: ...

    @property
    def location(self) -> str: ...

    @property
    def fetched(self) -> bool:
        """Whether shards are fetched when they are asked for."""
        ...

    def path(self, number: int) -> Path:
        """Where shard `number` lies here. Raises `InputError` where it cannot be fetched."""
        ...

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int] | None:
        """(c, h, w) of the latents of cached scenes of `size`; None where scenes are stored."""
        ...


@dataclass(frozen=True)
class RemoteShards:
    """The shards of a remote folder, fetched into a cache when they are asked for."""

    manifest: ShardManifest
    cache: ShardCache
    fetched = True

    @property
    def shards(self) -> Sequence[ShardRecord]:
        return self.manifest.shards

    @property
    def location(self) -> str:
        return self.manifest.location

    def path(self, number: int) -> Path:
        return self.cache.path(self.location, self.shards[number])

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int] | None:
        return self.manifest.latent_shape(size)


@dataclass(frozen=True)
class MixedShards:
    """The shards of several data sets, one after the other. Make it with `mix_shards`."""

    sets: tuple[Shards, ...]
    shards: tuple[ShardRecord, ...]  # named with their data set's location
    places: tuple[tuple[int, int], ...]  # of each: number of its data set, and number in that

    @property
    def location(self) -> str:
        return " + ".join(shards.location for shards in self.sets)

    @property
    def fetched(self) -> bool:
        return any(shards.fetched for shards in self.sets)

    def path(self, number: int) -> Path:
        data_set, shard = self.places[number]
        return self.sets[data_set].path(shard)

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int] | None:
        return self.sets[0].latent_shape(size)


def mix_shards(sets: Sequence[Shards]) -> MixedShards:
    """The shards of data sets as those of one. All or none are cached."""
    places = [(n, shard) for n, shards in enumerate(sets) for shard in range(len(shards.shards))]
    records = [
        replace(record, name=f"{shards.location}/{record.name}")
        for shards in sets
        for record in shards.shards
    ]
    return MixedShards(tuple(sets), tuple(records), tuple(places))


def shard_cache(data: DataConfig) -> ShardCache:
    """Where fetched shards are kept, as the configuration says."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = data.cache_dir or Path(home) / "anyscene" / "shards"
    return ShardCache(Path(folder), int(data.cache_gb * 1e9))


def open_shards(location: str, cache: ShardCache) -> Shards:
    """The shards of a folder or a remote location. Raises `InputError` where there are none."""
    manifest = read_manifest(location)
    return RemoteShards(manifest, cache) if is_remote(location) else manifest


def open_mix(data: DataConfig, cache: ShardCache) -> list[tuple[Shards, float]]:
    """The further data sets and their weights.

    Raises `InputError` where they cannot be in one batch with `data.train`.
    """
    ours = _kind(read_manifest(data.train).base)
    for location in data.mix:
        theirs = _kind(read_manifest(location).base)
        if theirs != ours:
            raise InputError(
                f"data.mix: {location!r} holds {theirs}, but data.train={data.train!r} "
                f"{ours}; mix shards of one kind"
            )
    return [(open_shards(location, cache), weight) for location, weight in data.mix.items()]


def check_data_sizes(data: DataConfig, multiple: int) -> None:
    """Raises `InputError` where training, mixed or validation scenes do not fit a base: validation
    would stop there, hours later. As `check_sizes`."""
    for location in [data.train, *data.mix, *([] if data.val is None else [data.val])]:
        check_sizes(location, read_manifest(location), multiple)


def check_sizes(location: str, manifest: ShardManifest, multiple: int) -> None:
    """Raises `InputError` for scenes with a side that is no multiple of so many pixels, which is
    what a base takes."""
    for bucket in manifest.buckets:
        if any(int(side) % multiple for side in bucket.split("x")):
            raise InputError(
                f"{location!r} has scenes of {bucket} pixels, but this base needs multiples "
                f"of {multiple}; prepare the shards in other sizes"
            )


def _kind(base: dict[str, Any] | None) -> str:
    """What a batch must be of, for a person: who encoded what `check_cached` looks at."""
    if base is None:
        return "scenes"
    channels, factor, dtype = (base[name] for name in ("channels", "factor", "dtype"))
    return f"cached latents of {channels} channels, factor {factor}, {dtype}"


def read_manifest(location: str) -> ShardManifest:
    """The manifest of a folder or a remote location, or of its parts together.

    Raises `InputError` when it is missing or foreign, cannot be fetched, or a part is missing.
    """
    return _fetch_manifest(location) if is_remote(location) else ShardManifest.read(location)


@lru_cache
def _fetch_manifest(location: str) -> ShardManifest:
    """A remote manifest, fetched once a process, so that a run's order and its hash agree."""
    try:
        text = fetch_bytes(location, MANIFEST_NAME)
    except FileNotFoundError:
        names = part_names(list_names(location))
        if not names:
            raise InputError(
                f"no shards in {location!r}: neither {MANIFEST_NAME} nor a list of parts is there"
            ) from None
        parts = {name: _fetch_part(location, name) for name in names}
        return replace(join_parts(parts), source_url=location)
    return replace(ShardManifest.parse(text, f"{location}/{MANIFEST_NAME}"), source_url=location)


def _fetch_part(location: str, name: str) -> ShardManifest:
    place = f"{location.rstrip('/')}/{name}"
    try:
        text = fetch_bytes(place, MANIFEST_NAME)
    except FileNotFoundError:
        raise InputError(f"{place}/{MANIFEST_NAME} is missing: the part is not finished") from None
    return replace(ShardManifest.parse(text, place), source_url=place)


def data_identity(data: DataConfig) -> dict[str, Any]:
    """What a resume must find again: the contents of the data sets and the weights of the mix."""
    return {
        "sha256 of data.train's manifest": _sha256(data.train),
        "data.mix (weights, and sha256 of the manifests)": [
            [weight, _sha256(location)] for location, weight in data.mix.items()
        ],
    }


def _sha256(location: str) -> str | None:
    """Checksum of a data set's manifest, None where the folder is not here (any more)."""
    if not is_remote(location) and not Path(location).is_dir():
        return None
    return read_manifest(location).sha256()
