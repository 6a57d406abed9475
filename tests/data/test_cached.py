"""Whether a run can use cached shards, told by their manifests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shard_files import write_shards

from anyscene.config import BaseConfig, Config, DataConfig
from anyscene.data.cached import check_cached, has_cached_latents
from anyscene.errors import ConfigError, InputError

WHOLE, ENCODER, OTHER = (digit * 64 for digit in "abc")
FORM = {"dtype": "fp16", "channels": 4, "factor": 8}


def cache(folder: Path, **base: Any) -> str:
    """A shard folder whose manifest is that of a cache."""
    manifest = replace(write_shards(folder, [2]), base=FORM | base)
    (folder / "manifest.json").write_text(manifest.to_json())
    return str(folder)


def check(train: str, *mix: str, first_stage: str | None = None) -> None:
    """`check_cached` for a run on the base of `WHOLE` and `ENCODER`."""
    data = DataConfig(train=train, mix=dict.fromkeys(mix, 0.5))
    config = Config(base=BaseConfig("models/x", first_stage=first_stage), data=data)
    check_cached(config, WHOLE, ENCODER)


def refused(*arguments: str, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        check(*arguments, **options)
    assert "give the same base.path and base.first_stage, or cache again" in str(caught.value)
    return str(caught.value)


def test_a_cache_is_of_a_first_stage_and_an_earlier_one_of_a_whole_base(tmp_path: Path) -> None:
    own = cache(tmp_path / "own", encoder_sha256=ENCODER, batch_size=8)
    earlier = cache(tmp_path / "earlier", sha256=WHOLE)
    foreign = cache(tmp_path / "foreign", encoder_sha256=OTHER)
    foreign_earlier = cache(tmp_path / "foreign-earlier", sha256=ENCODER)
    check(own)
    check(earlier, own)
    assert refused(foreign).startswith(
        f"data.train={foreign!r} was cached with a first stage whose encoder's sha256 is "
        "cccccccccccccccc..., but base.path='models/x' has bbbbbbbbbbbbbbbb..."
    )
    assert "but base.first_stage='taesd' has bbbb" in refused(foreign, first_stage="taesd")
    line = refused(foreign_earlier)
    assert "by an earlier version, which names the whole base, with one of sha256 bbbb" in line
    assert "but base.path='models/x' has aaaa" in line
    assert refused(own, foreign).startswith(f"data.mix: {foreign!r} was cached with")


def test_a_cache_in_parts_is_one_while_the_others_are_made(tmp_path: Path) -> None:
    assert not has_cached_latents(str(tmp_path / "gone"))
    assert not has_cached_latents(str(write_shards(tmp_path / "scenes", [2]).root))
    assert has_cached_latents(cache(tmp_path / "whole", encoder_sha256=ENCODER))
    (tmp_path / "parts" / "part-00000-of-00003").mkdir(parents=True)
    assert not has_cached_latents(str(tmp_path / "parts"))
    cache(tmp_path / "parts" / "part-00001-of-00003", encoder_sha256=ENCODER)
    assert has_cached_latents(str(tmp_path / "parts"))


def test_caches_of_other_dtypes_or_shapes_do_not_mix(tmp_path: Path) -> None:
    own = cache(tmp_path / "own", encoder_sha256=ENCODER)
    for name, value in (("dtype", "bf16"), ("channels", 16), ("factor", 4)):
        other = cache(tmp_path / name, **{"encoder_sha256": ENCODER, name: value})
        with pytest.raises(InputError, match="factor 8, fp16; mix shards of one kind"):
            check(own, other)
