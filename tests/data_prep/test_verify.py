"""`verify` on a good folder, and on one for each kind of damage."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.coco import prepare_coco
from data_prep.shards import read_samples
from data_prep.verify import verify

# pycocotools 2.0.11 on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = 48
KEY = "coco-000000000002"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in three shards."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 7):
        name = f"{number}.png"
        pixels = random.integers(0, 255, (SIZE, SIZE, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / name), pixels)
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        polygon = [10, 10, 30, 10, 30, 10 + 2 * number, 10, 30]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [polygon]}
        )
    table = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "tile"}],
    }
    (folder / "instances.json").write_text(json.dumps(table))
    prepare_coco(
        folder / "images",
        folder / "instances.json",
        None,
        folder / "sets" / "train",
        split="train",
        size=SIZE,
        shard_samples=2,
    )
    return folder / "sets" / "train"


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "sets" / "train"))


def rewrite(shards: Path, change: Callable[[list[tuple[str, Members]]], object]) -> None:
    """Change the samples of the first shard, and let the manifest agree with its bytes."""
    manifest = ShardManifest.read(shards)
    record = manifest.shards[0]
    path = shards / record.name
    samples = list(read_samples(path))
    change(samples)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples:
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    record.bytes = path.stat().st_size
    record.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (shards / "manifest.json").write_text(manifest.to_json())


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def changed_meta(members: Members, **values: object) -> None:
    members["meta.json"] = json.dumps(json.loads(members["meta.json"]) | values).encode()


def test_a_whole_folder(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = verify(whole.parent)
    assert report.damages == []
    assert (report.folders, report.shards, report.samples) == (1, 3, 6)
    assert report.categories == {"tile": 6}
    assert report.buckets == {"48x48": 6}
    printed = capsys.readouterr().out
    assert "6 samples in 3 shards" in printed
    assert "all samples are whole" in printed


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path)
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"format": "another"}')
    with pytest.raises(InputError, match="no shards in or below"):
        verify(tmp_path)


def damages(shards: Path) -> list[str]:
    return [line.removeprefix(f"{shards}/") for line in verify(shards.parent).damages]


def test_a_truncated_tar_names_shard_and_key(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shards / "train-000000.tar"
    with tarfile.open(path) as tar:
        entry = tar.getmember(f"{KEY}.mask.png")
    path.write_bytes(path.read_bytes()[: entry.offset_data + 20])
    found = damages(shards)
    assert "bytes" in found[0]
    assert found[1].startswith("train-000000.tar: cannot be read after coco-000000000001")
    assert any(line.startswith("train-000000.tar: 1 samples") for line in found)
    assert "DAMAGE" in capsys.readouterr().out


def test_every_flipped_bit_is_found(shards: Path) -> None:
    path = shards / "train-000001.tar"
    data = path.read_bytes()
    for position in np.random.default_rng(0).integers(0, len(data), 40):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(position % 8)
        path.write_bytes(flipped)
        assert damages(shards)[0] == "train-000001.tar: its checksum is not the manifest's"


def test_a_flipped_bit_in_a_picture_names_the_key(shards: Path) -> None:
    def flip(samples: list[tuple[str, Members]]) -> None:
        data = bytearray(samples[1][1]["scene.png"])
        data[len(data) // 2] ^= 4
        samples[1][1]["scene.png"] = bytes(data)

    rewrite(shards, flip)
    assert damages(shards) == [f"train-000000.tar: {KEY}: scene.png cannot be decoded"]


def empty_mask(members: Members) -> None:
    members["mask.png"] = png(np.zeros((SIZE, SIZE), np.uint8))


def moved_mask(members: Members) -> None:
    mask = cv2.imdecode(np.frombuffer(members["mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    members["mask.png"] = png(np.roll(mask, 9, axis=1))


def two_elements(members: Members) -> None:
    numbers = np.zeros((SIZE, SIZE), np.uint8)
    numbers[15:18, 15:18] = 1
    numbers[19:20, 15:18] = 3
    members["elements.png"] = png(numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.pop("mask.png"), "mask.png missing"),
        (lambda members: members.pop("scene.png"), "scene.png or scene.jpg missing"),
        (lambda members: members.pop("meta.json"), "meta.json missing"),
        (lambda members: members.update({"a.txt": b"1"}), "unknown member a.txt"),
        (lambda members: members.update({"scene.jpg": b"1"}), "two scenes"),
        (lambda members: members.update({"scene.png": b""}), "scene.png cannot be decoded"),
        (lambda members: members.update({"meta.json": b"{"}), "meta.json is damaged"),
        (lambda members: members.update({"meta.json": b"{}"}), "meta.json lacks 'bucket'"),
        (lambda members: changed_meta(members, size="large"), "meta.json is damaged"),
        (lambda members: changed_meta(members, size=[40, 40]), "size 40x40, bucket 48x48"),
        (lambda members: changed_meta(members, key="other"), "meta.json has the key 'other'"),
        (lambda members: changed_meta(members, captions=[]), "no caption"),
        (lambda members: changed_meta(members, captions=["  "]), "no caption"),
        (
            lambda members: members.update({"scene.png": png(np.ones((40, 48, 3), np.uint8))}),
            "scene.png is uint8 (40, 48, 3), expected uint8 (48, 48, 3)",
        ),
        (
            lambda members: members.update({"mask.png": png(np.ones((48, 48, 3), np.uint8))}),
            "mask.png is uint8 (48, 48, 3), expected uint8 (48, 48)",
        ),
        (empty_mask, "mask.png has no foreground"),
        (moved_mask, "elements.png has an element where mask.png is 0"),
        (two_elements, "elements.png has [1, 3], meta.json 1 elements"),
    ],
)
def test_a_damaged_sample_is_named(
    shards: Path, change: Callable[[Members], object], message: str
) -> None:
    rewrite(shards, lambda samples: change(samples[1][1]))
    found = damages(shards)
    assert len(found) == 1
    assert found[0].startswith(f"train-000000.tar: {KEY}: {message}")


def test_a_key_that_is_there_twice(shards: Path) -> None:
    rewrite(shards, lambda samples: samples.append(samples[1]))
    assert damages(shards) == [
        f"train-000000.tar: {KEY}: the key is there twice",
        f"train-000000.tar: 3 samples up to {KEY}, 2 expected",
    ]


def test_a_key_with_a_dot(shards: Path) -> None:
    rewrite(shards, lambda samples: samples.append(("a.b", samples.pop()[1])))
    assert damages(shards) == [
        "train-000000.tar: a: elements.png and mask.png and meta.json missing"
    ]


def test_files_that_are_not_what_the_manifest_says(shards: Path) -> None:
    (shards / "train-000000.tar").rename(shards / "train-000009.tar")
    assert damages(shards) == [
        "train-000009.tar: not in manifest.json",
        "train-000000.tar: missing",
    ]


def test_a_manifest_that_is_damaged(shards: Path) -> None:
    manifest = ShardManifest.read(shards)
    manifest.samples += 1
    (shards / "manifest.json").write_text(manifest.to_json())
    assert damages(shards) == ["manifest.json: its numbers of samples do not agree"]
    (shards / "manifest.json").write_text("{")
    assert "manifest.json is not JSON" in damages(shards)[0]
    (shards / "manifest.json").write_text('{"format": "anyscene-shards", "version": 1}')
    assert damages(shards)[0].startswith("manifest.json: ")


def test_a_preparation_that_was_not_finished(shards: Path) -> None:
    (shards / "manifest.json").rename(shards / "preparing.json")
    assert verify(shards).damages == [f"{shards}: its preparation was not finished; run it again"]
