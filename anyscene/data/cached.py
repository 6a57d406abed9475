"""Cached shards: whether a run has them, and whether it can use them."""

from pathlib import Path
from typing import Any

from anyscene.config import Config
from anyscene.data.sample import MANIFEST_NAME, ShardManifest
from anyscene.data.sources import open_mix, read_manifest, shard_cache
from anyscene.errors import ConfigError


def check_cached(config: Config, base_sha256: str, encoder_sha256: str) -> None:
    """Raises `ConfigError` for shards cached with another first stage, to be mirrored, or in
    validation.

    The hashes are `Base.sha256` and `Base.encoder_sha256` of the run's base. Raises `InputError`
    for shards that cannot be read or mixed.
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
    names = {f"data.train={data.train!r}": cached}
    names |= {f"data.mix: {location!r}": read_manifest(location).base for location in data.mix}
    for name, stated in names.items():
        _check_encoder(name, stated or {}, config, base_sha256, encoder_sha256)
    if data.flip > 0:
        raise ConfigError(
            f"data.flip={data.flip} cannot go with data.train={data.train!r}, which is a cache: "
            "the latent of a mirrored scene is not the mirrored latent; use data.flip=0, or the "
            "shards that it was made from"
        )


def _check_encoder(
    name: str, cached: dict[str, Any], config: Config, base_sha256: str, encoder_sha256: str
) -> None:
    """Raises `ConfigError` where a cache, by what its manifest says, is of another first stage."""
    if names_whole_base(cached):
        there, here = cached["sha256"], base_sha256
        made = "by an earlier version, which names the whole base, with one of sha256"
    else:
        there, here = cached["encoder_sha256"], encoder_sha256
        made = "with a first stage whose encoder's sha256 is"
    if there == here:
        return
    own = config.base.first_stage
    ours = f"base.path={config.base.path!r}" if own is None else f"base.first_stage={own!r}"
    raise ConfigError(
        f"{name} was cached {made} {there[:16]}..., but {ours} has {here[:16]}...; give the same "
        "base.path and base.first_stage, or cache again"
    )


def names_whole_base(cached: dict[str, Any] | None) -> bool:
    """Whether `base` of a manifest is of an earlier version, which had the hash of all weights in
    place of the encoder's: such a cache serves this one base alone."""
    return cached is not None and "sha256" in cached


def has_cached_latents(location: str) -> bool:
    """Whether shards store the scenes' latents; no: they are not here, or not yet. Of a data set in
    parts the first finished one tells."""
    folders = (Path(location), *sorted(Path(location).glob("part-*-of-*")))
    made = next((folder for folder in folders if (folder / MANIFEST_NAME).is_file()), None)
    return made is not None and ShardManifest.read(made).base is not None
