"""Real COCO images -> shards, against pycocotools; the folder beside the repository holds them."""

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from small_coco import decoded, file_bytes, prepare_files

from anyscene.data.sample import ShardManifest
from data_prep.boxes import Box
from data_prep.coco_annotations import read_records
from data_prep.instances import decode_instances, decode_mask, touching_groups

COCO_MINI = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "coco_mini"

pytestmark = [
    pytest.mark.skipif(not COCO_MINI.is_dir(), reason=f"no real images: {COCO_MINI}"),
    # pycocotools 2.0.11 on numpy 2
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def prepare_mini(out: Path, **options: Any) -> ShardManifest:
    names = {"instances": "instances.json", "captions": "captions.json", "images": "images"}
    return prepare_files(
        **{key: COCO_MINI / name for key, name in names.items()}, out=out, **options
    )


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> ShardManifest:
    return prepare_mini(tmp_path_factory.mktemp("mini"), shard_samples=8)


def test_masks_are_those_of_pycocotools() -> None:
    reference = COCO(COCO_MINI / "instances.json")
    compared = 0
    for record in read_records(COCO_MINI / "instances.json", None, None, None, Counter()):
        for annotation in record.annotations:
            mask = decode_mask(annotation.segmentation, record.height, record.width)
            theirs = reference.annToMask(reference.anns[annotation.annotation_id])
            assert np.array_equal(mask, theirs)
            compared += 1
    assert compared == 876


def test_counts_of_images_add_up_and_only_instances_are_selected(mini: ShardManifest) -> None:
    images = sum(count for reason, count in mini.rejected.items() if reason.startswith("image: "))
    assert images + mini.samples == 83
    assert mini.rejected["image: no annotations"] == 1  # image 58636
    assert mini.samples >= 20
    assert all(count > 0 for count in mini.rejected.values())
    crowds = {
        row["id"]
        for row in json.loads((COCO_MINI / "instances.json").read_text())["annotations"]
        if row["iscrowd"]
    }
    for sample in decoded(mini).values():
        assert not crowds & {element["annotation_id"] for element in sample["meta"]["elements"]}
        assert sample["scene"].shape == (512, 512, 3)
        assert len(sample["meta"]["captions"]) == 5
        assert "http" in sample["meta"]["licence"]


def test_no_element_is_cut_and_masks_lie_where_they_did(mini: ShardManifest) -> None:
    records = {
        record.image_id: record
        for record in read_records(COCO_MINI / "instances.json", None, None, None, Counter())
    }
    for image_id, sample in decoded(mini).items():
        record, meta = records[image_id], sample["meta"]
        ids = {element["annotation_id"] for element in meta["elements"]}
        chosen = [entry for entry in record.annotations if entry.annotation_id in ids]
        masks = [
            entry.runs.part(Box(0, 0, record.height, record.width)) * 255
            for entry in decode_instances(chosen, record.height, record.width)
        ]
        union = np.maximum.reduce(masks)
        scale = 512 / min(union.shape)
        top, left = meta["crop_top_left"]
        whole = cv2.resize(union, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        expected = whole[top : top + 512, left : left + 512]
        assert whole.sum() == pytest.approx(expected.sum(), rel=1e-3)  # nothing lies outside
        assert np.abs(sample["mask"].astype(int) - expected).mean() < 3
        for element in meta["elements"]:
            x, y, width, height = element["box_xywh"]
            assert min(x, y, 512 - x - width, 512 - y - height) >= 2


def test_groups_are_closed_under_touching() -> None:
    for record in read_records(COCO_MINI / "instances.json", None, None, 40, Counter()):
        instances = decode_instances(record.annotations, record.height, record.width)
        groups = touching_groups(instances, 2)
        unions = [
            np.maximum.reduce(
                [
                    member.runs.part(Box(0, 0, record.height, record.width))
                    for member in group.instances
                ]
            )
            for group in groups
        ]
        for index, union in enumerate(unions):
            near = cv2.dilate(union, np.ones((5, 5), np.uint8))
            others = [other for number, other in enumerate(unions) if number != index]
            assert not any((near & other).any() for other in others)
        members = Counter(id(member) for group in groups for member in group.instances)
        plain = [entry for entry in instances if not entry.annotation.crowd]
        assert members == Counter(id(entry) for entry in plain)


def test_bytes_do_not_depend_on_workers(mini: ShardManifest, tmp_path: Path) -> None:
    prepare_mini(tmp_path / "two", workers=2, shard_samples=8)
    assert file_bytes(tmp_path / "two") == file_bytes(mini.root)
    with tarfile.open(tmp_path / "two" / mini.shards[0].name) as tar:
        owners = {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) for entry in tar}
    assert owners == {(0, 0, 0, "", "")}
    other = prepare_mini(tmp_path / "seed", seed=1)
    corners = [
        [sample["meta"]["crop_top_left"] for sample in decoded(manifest).values()]
        for manifest in (mini, other)
    ]
    assert corners[0] != corners[1]
