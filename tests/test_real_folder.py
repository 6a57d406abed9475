"""`prepare folder` on real photos: the same elements come out as through `prepare coco`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from data_prep.folder_sample import CUT_OUT
from data_prep.shards import read_samples

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
IMAGES = 40  # of those without a crowd
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")

Annotation = dict[str, Any]
Samples = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def coco() -> COCO:
    return COCO(str(SHARED / "coco_mini" / "instances.json"))


def images_without_crowds(coco: COCO) -> list[dict[str, Any]]:
    crowded = {row["image_id"] for row in coco.anns.values() if row["iscrowd"]}
    images = [image for number, image in sorted(coco.imgs.items()) if number not in crowded]
    return images[:IMAGES]


def runs(mask: np.ndarray) -> dict[str, Any]:
    encoded: Any = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def write_source(
    folder: Path,
    coco: COCO,
    describe: Callable[[Path, list[Annotation], np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> int:
    """`folder`/source: images, and the files that `describe` writes beside them. It gets their
    masks (n H W, as pycocotools makes them) and gives those that are to be found there, and which
    of them, as elements: that is written as COCO. Returns the number of images."""
    images, kept = [], []
    (folder / "source").mkdir()
    for image in images_without_crowds(coco):
        annotations = coco.loadAnns(sorted(coco.getAnnIds(image["id"])))
        if not annotations:
            continue
        path = folder / "source" / image["file_name"]
        path.symlink_to((SHARED / "coco_mini" / "images" / path.name).resolve())
        masks = np.stack([coco.annToMask(annotation) for annotation in annotations])
        masks, chosen = describe(path, annotations, masks)
        images.append(image)
        for index in np.flatnonzero(chosen):
            kept.append(annotations[index] | {"segmentation": runs(masks[index])})
    spoken = json.loads((SHARED / "coco_mini" / "captions.json").read_text())["annotations"]
    captions: dict[str, list[str]] = {image["file_name"]: [] for image in images}
    for row in sorted(spoken, key=lambda row: row["id"]):
        if (name := f"{row['image_id']:012d}.jpg") in captions:
            captions[name].append(row["caption"])
    (folder / "captions.json").write_text(json.dumps(captions))
    table = coco.dataset | {"images": images, "annotations": kept}
    (folder / "instances.json").write_text(json.dumps(table))
    return len(images)


def samples_in(folder: Path) -> Samples:
    """Members by key; of the meta data what both sources know."""
    found: Samples = {}
    for record in ShardManifest.read(folder).shards:
        for key, members in read_samples(folder / record.name):
            meta = json.loads(members.pop("meta.json"))
            del meta["licence"]
            for element in meta["elements"]:
                del element["category"], element["annotation_id"]
            found[key] = {"meta": meta, **members}
    return found


def assert_same_samples(folder: Path, options: list[str], least: int) -> None:
    """Prepare `folder`/source as a folder and, from COCO's files, as COCO, and compare."""
    common = ["--size=256", "--workers=1"]
    coco_mini = SHARED / "coco_mini"
    files = [f"--images={coco_mini / 'images'}", f"--instances={folder / 'instances.json'}"]
    files += [f"--captions={coco_mini / 'captions.json'}", f"--out={folder / 'coco'}"]
    assert main(["prepare", "coco", *files, *common]) == 0
    files = [str(folder / "source"), f"--captions={folder / 'captions.json'}", "--name=coco"]
    files += options
    assert main(["prepare", "folder", *files, f"--out={folder / 'folder'}", *common]) == 0
    assert main(["prepare", "verify", str(folder / "folder"), "--workers=1"]) == 0
    expected, found = samples_in(folder / "coco"), samples_in(folder / "folder")
    assert len(expected) >= least
    assert found.keys() == expected.keys()
    for key, sample in expected.items():
        assert found[key] == sample, key


def write_ids(
    path: Path, annotations: list[Annotation], masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """An id mask has one id a pixel: a later annotation lies over an earlier one."""
    numbers = np.arange(1, len(annotations) + 1, dtype=np.uint8)
    ids = (masks * numbers[:, None, None]).max(0)
    Image.fromarray(ids).save(path.with_name(f"{path.stem}_mask.png"))
    visible = (ids == numbers[:, None, None]).astype(np.uint8)
    return visible, visible.any((1, 2))


def test_an_id_mask_gives_the_elements_of_coco(coco: COCO, tmp_path: Path) -> None:
    assert write_source(tmp_path, coco, write_ids) >= 30
    assert_same_samples(tmp_path, ["--masks=ids"], least=10)


def outermost(masks: np.ndarray) -> np.ndarray:
    """Which masks are neither 90 % inside a larger one nor at two sides of the image.

    A mask at all four sides has nothing inside.
    """
    _, height, width = masks.shape
    border = max(1, round(min(height, width) * 0.0175))
    edges = [masks[:, :border], masks[:, -border:], masks[..., :border], masks[..., -border:]]
    sides = sum(edge.any((1, 2)).astype(int) for edge in edges)
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    common, areas = flat @ flat.T, flat.sum(1)
    kept = sides < 2
    for one in range(len(masks)):
        for other in range(len(masks)):
            larger = areas[other] > areas[one] or (areas[other] == areas[one] and other < one)
            if larger and sides[other] < 4 and common[one, other] >= 0.9 * areas[one]:
                kept[one] = False
    return kept


def write_sa_1b(
    path: Path, annotations: list[Annotation], masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    scores = {"predicted_iou": 0.9, "stability_score": 0.96}
    rows = [
        {"id": annotation["id"], "segmentation": runs(mask), **scores}
        for annotation, mask in zip(annotations, masks, strict=True)
    ]
    image = {"image_id": 1, "height": masks.shape[1], "width": masks.shape[2]}
    path.with_suffix(".json").write_text(json.dumps({"image": image, "annotations": rows}))
    return masks, outermost(masks)


def test_sa_1bs_json_gives_the_elements_of_coco(coco: COCO, tmp_path: Path) -> None:
    assert write_source(tmp_path, coco, write_sa_1b) >= 30
    assert_same_samples(tmp_path, [], least=10)
    rejected = ShardManifest.read(tmp_path / "folder").rejected
    assert rejected["element: a part of another"] > 40
    assert rejected["element: around the others"] > 20


def test_alpha_over_a_photo_gives_the_elements_of_its_mask(tmp_path: Path) -> None:
    names = ("backpack", "cat", "dog", "teapot", "vase")
    for name in names:
        photo = np.asarray(Image.open(SHARED / "dreambooth" / name / "00.jpg").convert("RGB"))
        height, width = photo.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        for column in (3, 7):
            centre = (column * width // 10, height // 2)
            cv2.ellipse(mask, centre, (width // 8, height // 4), 0, 0, 360, 255, -1)
        files = {
            "masks": {"": photo, "_mask": mask},
            "alpha": {"": np.dstack([photo, mask])},
            "cut": {"": np.dstack([photo * (mask[..., None] > 0), mask])},
        }
        for folder, images in files.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            for suffix, image in images.items():
                Image.fromarray(image).save(tmp_path / folder / f"{name}{suffix}.png")
            (tmp_path / folder / f"{name}.txt").write_text(f"a {name}")
    common = ["--size=256", "--workers=1", "--category=ellipse"]
    for folder in ("masks", "alpha"):
        out = tmp_path / f"{folder}-shards"
        assert main(["prepare", "folder", str(tmp_path / folder), f"--out={out}", *common]) == 0
        assert main(["prepare", "verify", str(out), "--workers=1"]) == 0
    expected = samples_in(tmp_path / "masks-shards")
    assert expected.keys() == {f"folder-{name}" for name in names}
    assert samples_in(tmp_path / "alpha-shards") == expected
    cut = [str(tmp_path / "cut"), f"--out={tmp_path / 'cut-shards'}"]
    assert main(["prepare", "folder", *cut, *common]) == 2
    assert not (tmp_path / "cut-shards" / "manifest.json").exists()


def test_a_folder_of_cut_outs_says_what_they_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = np.asarray(Image.open(SHARED / "dreambooth" / "dog" / "00.jpg").convert("RGB"))
    alpha = np.zeros(photo.shape[:2], np.uint8)
    alpha[100:300, 100:300] = 255
    (tmp_path / "source").mkdir()
    Image.fromarray(np.dstack([photo * (alpha[..., None] > 0), alpha])).save(
        tmp_path / "source" / "dog.png"
    )
    source = [str(tmp_path / "source"), f"--out={tmp_path / 'out'}", "--default-caption=a dog"]
    assert main(["prepare", "folder", *source, "--workers=1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert CUT_OUT in error
