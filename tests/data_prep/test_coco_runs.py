"""A preparation made again, killed, or asked for with wrong input."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from small_coco import SmallCoco, box, file_bytes, prepare_files

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep.parts import Part
from data_prep.shards import read_samples

# pycocotools 2.0.11 on numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def coco(tmp_path: Path) -> SmallCoco:
    return SmallCoco(tmp_path / "coco")


def test_a_finished_folder_is_reused_and_another_one_is_kept(
    coco: SmallCoco, capsys: pytest.CaptureFixture[str]
) -> None:
    coco.add(box(10, 10, 40, 40))
    out = coco.folder / "out"
    manifest, _ = coco.prepare()
    assert manifest == ShardManifest.read(out)
    stamps = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    assert coco.prepare()[0] == manifest
    assert "1 samples, made with the same arguments" in capsys.readouterr().out
    assert stamps == [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    with pytest.raises(InputError, match=r"seed is 0 there, 3 asked for.*--overwrite"):
        coco.prepare(seed=3)
    assert coco.prepare(seed=3, overwrite=True)[0].seed == 3
    (out / "train-000000.tar").unlink()
    assert coco.prepare(seed=3)[0].samples == 1
    (out / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"holds train-000000\.tar but no manifest\.json"):
        coco.prepare()


def test_overwriting_leaves_no_shard_of_before(coco: SmallCoco) -> None:
    for _ in range(5):
        coco.add(box(10, 10, 40, 40))
    out = coco.prepare(shard_samples=2)[0].root
    _, samples = coco.prepare(limit=3, overwrite=True)
    assert set(samples) == {1, 2, 3}
    assert set(file_bytes(out)) == {
        "manifest.json",
        "train-000000.tar",
        "train-000000.tar.index",
    }


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_together_are_the_whole_data_set(coco: SmallCoco, count: int) -> None:
    for number in range(6):
        coco.add(box(10, 10, 40, 40), size=(64, 64 + 10 * number))
    coco.add()
    coco.annotations.append(coco.annotations[0] | {"id": 0, "image_id": 99})
    options = {"buckets": ((64, 64), (64, 96)), "shard_samples": 2}
    whole, _ = coco.prepare(**options, out=coco.folder / "whole")
    for index in range(count):
        coco.prepare(**options, part=Part(index, count))
    together = ShardManifest.read(coco.folder / "out")
    assert members_by_key(together) == members_by_key(whole)
    for name in ("samples", "buckets", "rejected", "filters", "split", "source", "seed"):
        assert getattr(together, name) == getattr(whole, name)
    names = [record.name for record in together.shards]
    assert len(set(names)) == len(names)
    assert all((coco.folder / "out" / name).is_file() for name in names)


def test_parts_are_not_mixed_with_other_divisions(coco: SmallCoco) -> None:
    for _ in range(4):
        coco.add(box(10, 10, 40, 40))
    coco.prepare(part=Part(0, 2))
    with pytest.raises(InputError, match=r"in 2 parts; choose another folder, or --num-shards 2"):
        coco.prepare(part=Part(0, 3))
    with pytest.raises(InputError, match=r"in 2 parts"):
        coco.prepare(overwrite=True)
    coco.prepare(out=coco.folder / "whole")
    with pytest.raises(InputError, match=r"whole holds a data set in one piece"):
        coco.prepare(out=coco.folder / "whole", part=Part(1, 2), overwrite=True)
    for part in (Part(2, 2), Part(-1, 2), Part(0, 0)):
        with pytest.raises(InputError, match=r"the index must be from 0 to num_shards - 1"):
            coco.prepare(part=part)


def members_by_key(manifest: ShardManifest) -> dict[str, dict[str, bytes]]:
    return dict(
        sample for record in manifest.shards for sample in read_samples(manifest.root / record.name)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": Path("nowhere")}, "no such folder of images: nowhere"),
        ({"instances": Path("nowhere.json")}, r"no such file: nowhere\.json"),
        ({"captions": Path("nowhere.json")}, r"no such file: nowhere\.json"),
        ({"truth": Path("nowhere")}, r"no such file: nowhere/truth\.jsonl"),
        ({"split": "a.b"}, "split='a.b' must be letters"),
        ({"source": "a/b"}, "source='a/b' must be letters"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"soften": -1.0}, "soften=-1.0 must be finite and not negative"),
        ({"soften": math.nan}, "soften=nan must be finite"),
        ({"shard_samples": 0}, "shard_samples=0 must be at least 1"),
        ({"buckets": ((0, 64),)}, r"buckets=\(\(0, 64\),\) must have sides of at least 1"),
        ({"min_scale": -1.0}, "min_scale=-1.0 must be finite and not negative"),
        ({"min_scale": math.inf}, "min_scale=inf must be finite"),
        ({"min_mask_quality": 1.5}, "min_mask_quality=1.5 must be from 0, which takes any, to 1"),
        ({"min_area_share": 0.9}, "min_area_share=0.9 and max_area_share=0.8 must be rising"),
    ],
)
def test_a_wrong_argument_is_one_line(
    coco: SmallCoco, change: dict[str, Any], message: str
) -> None:
    coco.add(box(10, 10, 40, 40))
    with pytest.raises(InputError, match=message) as error:
        coco.prepare(**change)
    assert "\n" not in str(error.value)
    assert not (coco.folder / "out").exists()


def test_a_file_that_is_not_coco_is_one_line(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 40, 40))
    paths = coco.write()
    whole = json.loads(paths["instances"].read_text())

    def refuses(table: Any, message: str) -> None:
        paths["instances"].write_text(table if isinstance(table, str) else json.dumps(table))
        with pytest.raises(InputError, match=message) as error:
            prepare_files(**paths)
        assert "\n" not in str(error.value)

    refuses("{", "is not JSON")
    refuses([], "the key 'images' is missing")
    for key in ("images", "annotations", "categories"):
        refuses({name: whole[name] for name in whole if name != key}, f"the key '{key}' is missing")
    image, annotation = whole["images"][0], whole["annotations"][0]
    refuses(whole | {"images": [image, image]}, "the image id 1 is there twice")
    refuses(whole | {"images": [image | {"id": "one"}]}, "'one' is not a whole number")
    refuses(whole | {"images": [image | {"height": 0}]}, "image 1 has height=0; it must be")
    refuses(whole | {"images": [{"id": 1}]}, "lacks the key 'file_name'")
    refuses(whole | {"images": [image | {"file_name": None}]}, "image 1 has file_name=None; it")
    refuses(whole | {"categories": [{"id": 1, "name": 3}]}, "category 1 has name=3; it must be a")
    both = [{"id": 1, "name": "apple"}, {"id": 1, "name": "apple"}, {"id": 1, "name": "boat"}]
    refuses(whole | {"categories": both}, "category 1 is both 'apple' and 'boat'")
    refuses(whole | {"annotations": [annotation | {"category_id": 77}]}, "category_id 77")
    refuses(whole | {"annotations": [annotation | {"iscrowd": "0"}]}, "iscrowd='0'; it must be 0")
    refuses(whole | {"images": [image | {"file_name": "x.jpg"}]}, "none of the 1 annotated images")
    refuses(whole | {"annotations": []}, r"none of the 1 images gives a sample: .*no annotations")
    paths["instances"].write_text(json.dumps(whole))
    paths["captions"].write_text(json.dumps(whole))
    with pytest.raises(InputError, match="caption format: a record lacks the key 'caption'"):
        prepare_files(**paths)


def test_captions_that_are_no_text_are_one_line(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 40, 40))
    coco.captions[0]["caption"] = None
    with pytest.raises(InputError, match=r"captions\.json .*: the caption None of 1 is not a text"):
        coco.prepare()


def test_files_may_begin_with_a_byte_order_mark(coco: SmallCoco) -> None:
    coco.add(box(10, 10, 40, 40))
    paths = coco.write()
    for name in ("instances", "captions"):
        paths[name].write_text(paths[name].read_text(), encoding="utf-8-sig")
    assert prepare_files(**paths, buckets=((64, 64),)).samples == 1
