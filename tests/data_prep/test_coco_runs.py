"""A preparation made again, killed, or asked for with wrong input."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_coco import SmallCoco, box, file_bytes, prepare_files

from anyscene.data.sample import ShardManifest
from anyscene.errors import InputError
from data_prep import preparation

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


def test_a_killed_run_is_made_again_byte_for_byte(
    coco: SmallCoco, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        coco.add(box(10, 10, 40, 40))
    whole = file_bytes(coco.prepare(shard_samples=2, out=coco.folder / "whole")[0].root)
    written = 0
    write = preparation.ShardWriter.write

    def killed(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(preparation.ShardWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        coco.prepare(shard_samples=2)
    monkeypatch.undo()
    left = {path.name for path in (coco.folder / "out").iterdir()}
    assert left == {"train-000000.tar", "train-000001.tar.part", "preparing.json"}
    assert file_bytes(coco.prepare(shard_samples=2)[0].root) == whole
    assert set(whole) == {"manifest.json", *(f"train-00000{index}.tar" for index in range(3))}


def test_overwriting_leaves_no_shard_of_before(coco: SmallCoco) -> None:
    for _ in range(5):
        coco.add(box(10, 10, 40, 40))
    out = coco.prepare(shard_samples=2)[0].root
    _, samples = coco.prepare(limit=3, overwrite=True)
    assert set(samples) == {1, 2, 3}
    assert set(file_bytes(out)) == {"manifest.json", "train-000000.tar"}


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
        ({"soften": -1.0}, "soften=-1.0 must not be negative"),
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
    refuses(whole | {"images": [image | {"height": 0}]}, "an image of 0 pixels")
    refuses(whole | {"images": [{"id": 1}]}, "lacks the key 'file_name'")
    refuses(whole | {"annotations": [annotation | {"category_id": 77}]}, "category_id 77")
    refuses(whole | {"images": [image | {"file_name": "x.jpg"}]}, "none of the 1 annotated images")
    refuses(whole | {"annotations": []}, r"none of the 1 images gives a sample: .*no annotations")
    paths["instances"].write_text(json.dumps(whole))
    paths["captions"].write_text(json.dumps(whole))
    with pytest.raises(InputError, match="caption format: a record lacks the key 'caption'"):
        prepare_files(**paths)
