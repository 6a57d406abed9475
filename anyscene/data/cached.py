"""Cached shards: whether a run has them, and whether it can use them."""

from pathlib import Path

from anyscene.config import Config
from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.data.sources import open_mix, read_manifest, shard_cache
from anyscene.errors import ConfigError


def check_cached(config: Config, base_sha256: str) -> None:
    """Raises `ConfigError` for cached shards of another base, to be mirrored, or in validation.

    `base_sha256` is the run's base. Raises `InputError` for shards that cannot be read or mixed.
    """
    data = config.data
    if data.val is not None and read_manifest(data.val).base is not None:
        raise ConfigError(
            f"data.val={data.val!r} is a cache, but validation needs whole scenes; give the shards "
            "that it was made from"
        )
    cached = read_manifest(data.train).base
    open_mix(data, shard_cache(data))  # they are cached as `data.train` is
    if cached is None:
        return
    if cached["sha256"] != base_sha256:
        raise ConfigError(
            f"data.train={data.train!r} was cached with a base of sha256 "
            f"{cached['sha256'][:16]}..., but base.path={config.base.path!r} has "
            f"{base_sha256[:16]}...; give the same base.path and base.first_stage, or cache again"
        )
    if data.flip > 0:
        raise ConfigError(
            f"data.flip={data.flip} cannot go with data.train={data.train!r}, which is a cache: "
            "the latent of a mirrored scene is not the mirrored latent; use data.flip=0, or the "
            "shards that it was made from"
        )


def has_cached_latents(location: str) -> bool:
    """Whether shards store the scenes' latents; no: they are not here, or not yet."""
    if not (Path(location) / MANIFEST_NAME).is_file():
        return False
    return ShardManifest.read(location).base is not None
