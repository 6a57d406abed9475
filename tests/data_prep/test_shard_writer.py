"""Shards and their indexes as they are written."""

import json
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyscene.data.index import Member, ShardIndex, index_path, tar_members
from data_prep.shards import ShardFile, ShardPlan, ShardWriter, file_sha256, read_samples

MEMBERS = st.dictionaries(
    st.sampled_from(["mask.png", "meta.json", "scene.jpg", "elements.png"]),
    st.binary(max_size=1500),
    min_size=1,
)


@given(samples=st.lists(MEMBERS, min_size=1, max_size=6))
def test_an_index_is_what_the_tar_says(
    tmp_path_factory: pytest.TempPathFactory, samples: list[dict[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("shard") / "train-000000.tar"
    shard = ShardFile(path, "8x8")
    keys = [f"{'long' * 20}-{number}" for number in range(len(samples))]
    for key, members in zip(keys, samples, strict=True):
        shard.add(key, members)
    record = shard.finish()
    assert (record.bytes, record.sha256) == (path.stat().st_size, file_sha256(path))
    index = ShardIndex.read(index_path(path), record)
    scanned = ShardIndex.scan(path)
    assert index.keys == scanned.keys == keys
    assert index.suffixes == scanned.suffixes
    assert (index.offsets == scanned.offsets).all()
    assert (index.sizes == scanned.sizes).all()
    assert [members for _, members in read_samples(path)] == samples
    rows = json.loads(index_path(path).read_bytes())["members"]
    data = path.read_bytes()
    for member in (Member(*row) for row in rows):
        assert member.crc32 == zlib.crc32(data[member.offset : member.offset + member.size])


@given(
    buckets=st.lists(st.sampled_from(["8x8", "8x16", "16x8"]), max_size=40),
    shard_samples=st.integers(1, 5),
)
def test_shards_have_one_bucket_and_are_numbered_by_their_first_sample(
    buckets: list[str], shard_samples: int
) -> None:
    plan = ShardPlan("val", shard_samples)
    places = [plan.place(bucket) for bucket in buckets]
    assert list(dict.fromkeys(places)) == [
        f"val-{number:06d}.tar" for number in range(len(set(places)))
    ]
    for name in set(places):
        inside = [bucket for bucket, place in zip(buckets, places, strict=True) if place == name]
        assert set(inside) == {plan.buckets[name]}
        assert len(inside) == plan.samples[name] <= shard_samples
    for bucket in set(buckets):
        full = [name for name in plan.buckets if plan.buckets[name] == bucket][:-1]
        assert all(plan.samples[name] == shard_samples for name in full)


def test_a_failed_writer_leaves_open_shards_under_their_partial_names(tmp_path: Path) -> None:
    def write_some() -> None:
        with ShardWriter(tmp_path, "train", 2) as writer:
            for number, bucket in enumerate(["8x8", "8x16", "8x8"]):
                writer.write(f"s{number}", bucket, {"mask.png": b"1"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_some()
    assert {path.name for path in tmp_path.iterdir()} == {
        "train-000000.tar",
        "train-000000.tar.index",
        "train-000001.tar.part",
    }
    assert [len(list(tar_members(path))) for path in tmp_path.glob("*.tar")] == [2]
