"""`verify` on whole folders, and on one for each kind of damage."""

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shard_folders import SIZE, Members, damages, rewrite, write_index, write_manifest, write_shards

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.shards import read_samples
from data_prep.verify import verify

KEY = "drawn-002"  # the second one of the first shard


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards: with scenes, cached, and in three parts. Read only."""
    folder = tmp_path_factory.mktemp("originals")
    write_shards(folder / "train")
    write_shards(folder / "cached", cached=True)
    write_shards(folder / "parts", parts=3)
    return folder


@pytest.fixture
def shards(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "train", tmp_path / "sets" / "train"))


@pytest.fixture
def parts(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "parts", tmp_path / "sets" / "parts"))


@pytest.mark.parametrize("workers", [1, 2])
def test_whole_folders(originals: Path, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(originals, workers)
    assert report.damages == []
    assert report.remarks == []
    assert (report.folders, report.shards, report.samples) == (5, 9, 18)
    assert report.categories == {"tile": 18, "dog": 9}
    assert report.buckets == {"48x48": 18}
    assert report.rejected == {"group: too small": 18}
    printed = capsys.readouterr().out
    assert "18 samples in 9 shards" in printed
    assert "all samples are whole" in printed


def test_masks_that_stayed_as_annotated_were_not_left_out(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = ShardManifest.read(shards)
    rejected = {"image: unreadable": 2, "refinement: SAM's mask agrees too little": 30}
    write_manifest(shards, replace(manifest, rejected=rejected))
    assert verify(shards).damages == []
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert ["left", "out", "2  image: unreadable"] in lines
    assert ["masks", "kept", "30  SAM's mask agrees too little"] in lines
    assert [words[0] for words in lines].count("left") == 1


def test_the_command_ends_with_1_on_damage(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "verify", str(shards), "--workers=1"]) == 0
    rewrite(shards, lambda samples: samples[1][1].pop("mask.png"))
    capsys.readouterr()
    assert main(["prepare", "verify", str(shards), "--workers=1"]) == 1
    printed = capsys.readouterr().out
    assert f"DAMAGE {shards}/train-000000.tar: {KEY}: mask.png missing\n1 damages\n" in printed
    assert main(["prepare", "verify", str(shards / "nowhere")]) == 2


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path)
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path)


def test_a_truncated_tar_names_shard_and_key(shards: Path) -> None:
    path = shards / "train-000000.tar"
    with tarfile.open(path) as tar:
        entry = tar.getmember(f"{KEY}.mask.png")
    path.write_bytes(path.read_bytes()[: entry.offset_data + 20])
    found = damages(shards)
    assert "bytes" in found[0]
    assert found[1].startswith("train-000000.tar.index: 2 members are not where it says")
    assert found[2].startswith("train-000000.tar: cannot be read after drawn-001")
    assert found[3] == "train-000000.tar: 1 samples up to drawn-001, 2 expected"
    assert len(found) == 4


def test_every_flipped_bit_is_found(shards: Path) -> None:
    path = shards / "train-000001.tar"
    data = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 40):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(position % 8)
        path.write_bytes(flipped)
        assert damages(shards)[0] == "train-000001.tar: its checksum is not the manifest's"


def test_a_flipped_bit_that_decodes_names_its_key(shards: Path) -> None:
    """PNG has checksums, JPEG has none: only the index knows that it is not what it was."""
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3)))[1]

    def to_jpeg(samples: list[tuple[str, Members]]) -> None:
        members = samples[1][1]
        del members["scene.png"]
        members["scene.jpg"] = jpeg.tobytes()

    rewrite(shards, to_jpeg)
    assert damages(shards) == []
    path = shards / "train-000000.tar"
    with tarfile.open(path) as tar:
        entry = tar.getmember(f"{KEY}.scene.jpg")
    data = bytearray(path.read_bytes())
    data[entry.offset_data + entry.size // 2] ^= 1
    path.write_bytes(data)
    assert damages(shards) == [
        "train-000000.tar: its checksum is not the manifest's",
        f"train-000000.tar: {KEY}: scene.jpg has another checksum than in the index",
    ]


def test_a_key_that_is_there_twice(shards: Path) -> None:
    manifest = ShardManifest.read(shards)
    rewrite(shards, lambda samples: samples.append(samples[1]))
    found = damages(shards)
    assert found[1:] == [
        f"train-000000.tar: {KEY}: the key is there twice",
        f"train-000000.tar: 3 samples up to {KEY}, 2 expected",
    ]
    assert found[0] == (
        f"{shards}/train-000000.tar.index is damaged (it does not fit {manifest.shards[0].name})"
    ).removeprefix(f"{shards}/")


def test_a_key_that_two_shards_have(shards: Path) -> None:
    second = next(iter(read_samples(shards / "train-000002.tar")))
    rewrite(shards, lambda samples: samples.__setitem__(1, second))
    assert damages(shards) == [
        "train-000002.tar: drawn-005: the key is in train-000000.tar too",
    ]


def test_a_key_that_two_parts_have(parts: Path) -> None:
    second = next(iter(read_samples(parts / "part-00001-of-00003" / "train-000000.tar")))
    rewrite(parts / "part-00000-of-00003", lambda samples: samples.__setitem__(0, second))
    found = damages(parts)
    assert found == [
        "part-00001-of-00003/train-000000.tar: drawn-002: the key is in train-000000.tar too"
    ]


def test_a_key_with_a_dot(shards: Path) -> None:
    rewrite(shards, lambda samples: samples.append(("a.b", samples.pop()[1])))
    assert damages(shards) == ["train-000000.tar: a: scene.png or scene.jpg missing"]


def test_files_that_are_not_what_the_manifest_says(shards: Path) -> None:
    (shards / "train-000000.tar").rename(shards / "train-000009.tar")
    (shards / "train-000002.tar.index.part").touch()
    (shards / "notes.txt").touch()
    assert damages(shards) == [
        "train-000002.tar.index.part: not in manifest.json",
        "train-000009.tar: not in manifest.json",
        "train-000000.tar: missing",
    ]
    assert verify(shards).remarks == [f"{shards}/notes.txt: not in manifest.json"]


def test_an_index_that_is_missing(shards: Path) -> None:
    indexes = sorted(shards.glob("*.index"))
    indexes[1].unlink()
    assert damages(shards) == ["train-000001.tar.index: missing"]
    indexes[0].unlink()
    indexes[2].unlink()
    report = verify(shards)
    assert report.damages == []
    assert report.remarks == [f"{shards}: no shard has an index; its members have no checksums"]


def test_an_index_that_is_wrong(shards: Path) -> None:
    path = shards / "train-000000.tar.index"
    whole = path.read_bytes()

    write_index(shards, lambda member: member._replace(offset=member.offset + 1))
    found = damages(shards)
    assert found == [
        "train-000000.tar.index: 8 members are not where it says, such as drawn-001.elements.png"
    ]
    write_index(shards, lambda member: member._replace(crc32=1))
    assert [line.split(": ", 2)[1:] for line in damages(shards)] == [
        [key, "elements.png has another checksum than in the index"] for key in ("drawn-001", KEY)
    ]
    write_index(shards, lambda member: member._replace(crc32=None))
    assert damages(shards) == ["train-000000.tar.index: without checksums"]
    path.write_bytes((shards / "train-000001.tar.index").read_bytes())
    assert "is the index of another train-000000.tar" in damages(shards)[0]
    path.write_bytes(whole[:-9])
    assert "train-000000.tar.index is damaged" in damages(shards)[0]


def test_a_manifest_that_is_damaged(shards: Path) -> None:
    manifest = ShardManifest.read(shards)
    write_manifest(shards, replace(manifest, samples=7))
    assert damages(shards) == ["manifest.json: its numbers of samples do not agree"]
    write_manifest(shards, replace(manifest, base={"sha256": "0"}))
    assert damages(shards)[0].startswith("manifest.json: ")
    (shards / "manifest.json").write_text("{")
    assert "manifest.json is not JSON" in damages(shards)[0]
    (shards / "manifest.json").write_text('{"format": "anyscene-shards", "version": 1}')
    assert damages(shards)[0].startswith("manifest.json: ")


def test_a_preparation_that_was_not_finished(shards: Path) -> None:
    (shards / "manifest.json").rename(shards / "preparing.jsonl")
    assert verify(shards).damages == [f"{shards}: its preparation was not finished; run it again"]


def test_parts_that_are_missing_or_made_otherwise(parts: Path) -> None:
    part = parts / "part-00001-of-00003"
    manifest = ShardManifest.read(part)
    write_manifest(part, replace(manifest, seed=5))
    assert "seed=5" in verify(parts).damages[0]
    shutil.rmtree(part)
    found = verify(parts).damages
    assert len(found) == 1
    assert str(part) in found[0]
    assert verify(parts / "part-00000-of-00003").damages == []  # asked for by itself
    (parts / "manifest.json").write_text(manifest.to_json())
    assert f"{parts}: parts lie beside a manifest.json, and are not read" in verify(parts).damages


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_damage_to_a_shard_or_its_index_is_found(originals: Path, data: st.DataObject) -> None:
    """No crash, and nothing silent: bytes that are changed, lost or put in between."""
    source = originals / data.draw(st.sampled_from(["train", "cached"]))
    name = data.draw(st.sampled_from(["train-000001.tar", "train-000001.tar.index"]))
    whole = (source / name).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(len(whole), start + 600)))
    damaged = whole[:start] + data.draw(st.binary(max_size=600)) + whole[end:]
    assume(damaged.split() != whole.split())  # white space in an index has no meaning
    with TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(source, Path(folder) / "train"))
        (copy / name).write_bytes(damaged)
        assert verify(copy).damages
