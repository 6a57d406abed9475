"""The demo's data set: captions, hold-out, COCO files and ground truth."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from anyscene.errors import InputError
from data_prep import demo_scenes
from data_prep.demo_places import DIRECTIONS, PLACES
from data_prep.demo_plan import (
    TONES,
    WITHHELD_ELEMENTS,
    WITHHELD_LIGHTS,
    ScenePlan,
    plan_scene,
)
from data_prep.demo_scenes import demo_scene, prepare_demo
from data_prep.demo_sprites import CATEGORIES, COLOURS

SIZE = 64

# pycocotools 2.0 decodes with NumPy 1's `__array__`
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    prepare_demo(out, scenes=24, val_scenes=16, seed=3, size=SIZE, workers=1)
    return out


def test_captions_name_place_light_and_elements_in_the_same_words() -> None:
    plan = ScenePlan(
        place="city",
        direction="above",
        tone="cool",
        horizon=0.4,
        elements=plan_scene(np.random.default_rng(0), count=3).elements,
        texture_seed=0,
    )
    left, middle, right = sorted(plan.elements, key=lambda element: element.centre)
    first, second = plan.captions()
    for caption in (first, second):
        order = (
            rf"{left.colour} {left.category}, an? {middle.colour} {middle.category} "
            rf"and an? {right.colour} {right.category}"
        )
        assert re.search(order, caption)
        assert caption.endswith(", cool light from above")
        assert "in a city at night" in caption
    assert sorted(re.findall(r"\w+", first)) == sorted(re.findall(r"\w+", second))
    assert "light from the left" in replace(plan, direction="left").captions()[0]


def test_caption_of_one_element_has_its_article() -> None:
    plan = plan_scene(np.random.default_rng(0), place="snow", direction="right", tone="warm")
    element = replace(plan.elements[0], colour="orange", category="car")
    assert replace(plan, elements=(element,)).captions() == [
        "an orange car in the snow, warm light from the right",
        "in the snow, an orange car, warm light from the right",
    ]


def test_vocabulary_is_small_and_whole() -> None:
    plans = [plan_scene(np.random.default_rng(seed)) for seed in range(400)]
    words = {word for plan in plans for caption in plan.captions() for word in caption.split()}
    words = {word.strip(",") for word in words}
    assert len(words) <= 60
    assert words >= {*CATEGORIES, *COLOURS, *TONES, *DIRECTIONS, *PLACES}


def test_withheld_pairs_are_few_and_spread_evenly() -> None:
    assert {category for category, _ in WITHHELD_ELEMENTS} == set(CATEGORIES)
    assert {colour for _, colour in WITHHELD_ELEMENTS} == set(COLOURS)
    assert len(WITHHELD_ELEMENTS) == 8
    assert sorted(place for place, _, _ in WITHHELD_LIGHTS) == sorted(PLACES)
    assert {(direction, tone) for _, direction, tone in WITHHELD_LIGHTS} == {
        (direction, tone) for direction in DIRECTIONS for tone in TONES
    }


def test_held_out_combinations_are_never_in_train() -> None:
    for index in range(120):
        plan = demo_scene("train", index, seed=0, size=32).plan
        pairs = {(element.category, element.colour) for element in plan.elements}
        assert not pairs & WITHHELD_ELEMENTS
        assert (plan.place, plan.direction, plan.tone) not in WITHHELD_LIGHTS


def test_every_second_scene_of_val_is_held_out() -> None:
    held_out = [demo_scene("val", index, seed=0, size=32).plan.held_out for index in range(20)]
    assert held_out == [True, False] * 10


def test_withheld_light_asked_of_train_is_an_error() -> None:
    place, direction, tone = next(iter(WITHHELD_LIGHTS))
    with pytest.raises(InputError, match="no demo scene"):
        plan_scene(
            np.random.default_rng(0), held_out=False, place=place, direction=direction, tone=tone
        )


def test_instances_decode_to_the_exact_masks(demo: Path) -> None:
    coco = COCO(demo / "coco" / "val" / "instances.json")
    assert len(coco.imgs) == 16
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    for index, image_id in enumerate(sorted(coco.imgs)):
        scene = demo_scene("val", index, seed=3, size=SIZE)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [names[a["category_id"]] for a in annotations] == [
            element.category for element in scene.plan.elements
        ]
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            assert np.array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            extent = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["bbox"] == extent
        path = demo / "coco" / "val" / "images" / coco.imgs[image_id]["file_name"]
        assert np.array_equal(np.asarray(Image.open(path)), scene.image)


def test_truth_names_every_image_and_its_shadow_maps(demo: Path) -> None:
    folder = demo / "truth" / "train"
    lines = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    instances = json.loads((demo / "coco" / "train" / "instances.json").read_text())
    assert [line["image_id"] for line in lines] == [image["id"] for image in instances["images"]]
    ids = {annotation["id"]: annotation["image_id"] for annotation in instances["annotations"]}
    assert len(ids) == len(instances["annotations"])
    for index, line in enumerate(lines):
        scene = demo_scene("train", index, seed=3, size=SIZE)
        assert line["place"] == scene.plan.place
        assert line["held_out"] is False
        assert line["horizon"] == pytest.approx(scene.plan.horizon, abs=1e-4)
        assert {ids[element["annotation_id"]] for element in line["elements"]} == {line["image_id"]}
        for key in ("shadow", "shadow_swapped"):
            stored = np.asarray(Image.open(folder / line[key]))
            assert np.array_equal(stored, getattr(scene, key))


def test_captions_file_has_two_of_each_image(demo: Path) -> None:
    captions = json.loads((demo / "coco" / "train" / "captions.json").read_text())
    owners = [annotation["image_id"] for annotation in captions["annotations"]]
    assert owners == [image["id"] for image in captions["images"] for _ in range(2)]


def test_shards_hold_every_scene_with_all_its_elements(demo: Path) -> None:
    manifest = json.loads((demo / "shards" / "train" / "manifest.json").read_text())
    assert manifest["samples"] == 24
    assert manifest["rejected"] == {}


def test_files_are_the_same_for_one_and_two_workers(demo: Path, tmp_path: Path) -> None:
    shutil.copytree(demo / "shards", tmp_path / "shards")  # the shards have a test of their own
    prepare_demo(tmp_path, scenes=24, val_scenes=16, seed=3, size=SIZE, workers=2)
    assert files(tmp_path) == files(demo)


def test_second_run_keeps_what_is_complete_and_redoes_the_rest(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(demo)
    drawn: list[str] = []
    write_split = demo_scenes._write_split

    def spy(final: demo_scenes.Folders, split: str, count: int, **arguments: int) -> None:
        drawn.append(split)
        write_split(final, split, count, **arguments)

    monkeypatch.setattr(demo_scenes, "_write_split", spy)
    prepare_demo(demo, scenes=24, val_scenes=16, seed=3, size=SIZE, workers=1)
    assert drawn == []
    (demo / "coco" / "val").rename(demo / "coco" / ".val.partial")  # as if it was interrupted
    prepare_demo(demo, scenes=24, val_scenes=16, seed=3, size=SIZE, workers=1)
    assert drawn == ["val"]
    assert files(demo) == before


def test_folder_of_another_demo_is_refused(demo: Path) -> None:
    with pytest.raises(InputError, match="holds other data"):
        prepare_demo(demo, scenes=25, val_scenes=16, seed=3, size=SIZE, workers=1)


def test_folder_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "coco" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"demo\.json is missing"):
        prepare_demo(tmp_path, scenes=1, val_scenes=1, seed=0, size=SIZE, workers=1)


def test_impossible_argument_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size=8 is too small"):
        prepare_demo(tmp_path, scenes=1, val_scenes=1, seed=0, size=8, workers=1)
