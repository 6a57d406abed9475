"""COCO's JSON files as one small record an image: the only place that knows their keys."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyscene.errors import InputError
from data_prep.captions import clean_caption

TRUTH_NAME = "truth.jsonl"
LARGEST_SIDE = 65_535  # pixels: JPEG's
UNLISTED = "of an image that is not listed"


@dataclass(frozen=True)
class Annotation:
    """One instance, or one crowd region, of an image."""

    annotation_id: int
    category: str
    segmentation: Any  # polygons as float64 arrays or a COCO run-length dictionary; not checked
    crowd: bool


@dataclass(frozen=True)
class ImageRecord:
    """What COCO says of one image."""

    image_id: int
    name: str  # unique in the data set, without dots: the end of the sample's key
    file_name: str
    height: int
    width: int
    licence: str  # "name url" or "unknown"
    annotations: tuple[Annotation, ...]  # by annotation id
    captions: tuple[str, ...] | None  # None: no captions file was given
    truth: dict[str, Any] | None  # the image's line of truth.jsonl


def read_records(
    instances: Path,
    captions: Path | None,
    truth: Path | None,
    limit: int | None,
    rejected: Counter[str],
) -> list[ImageRecord]:
    """The images of COCO files by rising id, the first `limit` of them.

    `rejected` counts annotations and captions of images that `instances` does not list. Raises
    `InputError` for a missing file and for one that is not COCO.
    """
    table = _read_json(instances, ("images", "annotations", "categories"))
    spoken = _read_captions(captions) if captions else None
    truths = _read_truth(truth / TRUTH_NAME) if truth else {}
    with _in_form("COCO format", instances):
        categories = _read_categories(table["categories"])
        licences = {entry["id"]: _licence(entry) for entry in table.get("licenses") or []}
        annotations = _read_annotations(table["annotations"], categories)
        images = sorted(table["images"], key=lambda image: image["id"])
        ids = [image["id"] for image in images]
        _check_ids(ids)
        _count_unlisted("annotation", annotations, ids, rejected)
        _count_unlisted("caption", spoken or {}, ids, rejected)
        return [
            ImageRecord(
                image_id=image["id"],
                name=f"{image['id']:012d}",
                file_name=_text(image, "file_name", "image"),
                height=_side(image, "height"),
                width=_side(image, "width"),
                licence=licences.get(image.get("license"), "unknown"),
                annotations=tuple(annotations.get(image["id"], ())),
                captions=None if spoken is None else tuple(spoken.get(image["id"], ())),
                truth=truths.get(image["id"]),
            )
            for image in images[:limit]
        ]


def _read_categories(rows: list[dict[str, Any]]) -> dict[int, str]:
    """Names by id. Raises `ValueError` for an id with two names."""
    found: dict[int, str] = {}
    for row in rows:
        name = _text(row, "name", "category")
        if found.setdefault(row["id"], name) != name:
            raise ValueError(f"category {row['id']!r} is both {found[row['id']]!r} and {name!r}")
    return found


def _text(record: dict[str, Any], key: str, kind: str) -> str:
    if not isinstance(record[key], str) or not record[key].strip():
        raise ValueError(f"{kind} {record['id']!r} has {key}={record[key]!r}; it must be a text")
    return record[key]


def _side(image: dict[str, Any], key: str) -> int:
    pixels = image[key]
    if not isinstance(pixels, int) or not 1 <= pixels <= LARGEST_SIDE:
        raise ValueError(
            f"image {image['id']} has {key}={pixels!r}; it must be a whole number of pixels from 1 "
            f"to {LARGEST_SIDE}"
        )
    return pixels


def _check_ids(ids: list[int]) -> None:
    """Raises `ValueError` unless rising ids are whole numbers from 0, each there once."""
    for before, number in zip([None, *ids], ids, strict=False):
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"the image id {number!r} is not a whole number from 0")
        if number == before:
            raise ValueError(f"the image id {number} is there twice")


def _count_unlisted(
    kind: str, found: Mapping[int, Sequence[Any]], ids: Collection[int], rejected: Counter[str]
) -> None:
    """Count what belongs to an image that is not there, such as one whose id is a text."""
    if unlisted := sum(len(found[image]) for image in found.keys() - set(ids)):
        rejected[f"{kind}: {UNLISTED}"] += unlisted


def _read_annotations(
    rows: list[dict[str, Any]], categories: dict[int, str]
) -> dict[int, list[Annotation]]:
    found: dict[int, list[Annotation]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["id"]):
        if row["category_id"] not in categories:
            raise ValueError(
                f"annotation {row['id']} has category_id {row['category_id']}, "
                "which 'categories' does not list"
            )
        if (crowd := row.get("iscrowd") or 0) not in (0, 1):
            raise ValueError(f"annotation {row['id']} has iscrowd={crowd!r}; it must be 0 or 1")
        found[row["image_id"]].append(
            Annotation(
                annotation_id=row["id"],
                category=categories[row["category_id"]],
                segmentation=row.get("segmentation"),
                crowd=bool(crowd),
            )
        )
    return found


def _licence(entry: dict[str, Any]) -> str:
    return " ".join(str(entry[key]) for key in ("name", "url") if entry.get(key)) or "unknown"


def _read_captions(path: Path) -> dict[int, list[str]]:
    table = _read_json(path, ("annotations",))
    found: dict[int, list[str]] = defaultdict(list)
    with _in_form("COCO's caption format", path):
        for row in sorted(table["annotations"], key=lambda row: row["id"]):
            if not isinstance(row["caption"], str):
                raise ValueError(f"the caption {row['caption']!r} of {row['id']!r} is not a text")
            if caption := clean_caption(row["caption"]):
                found[row["image_id"]].append(caption)
    return found


def _read_truth(path: Path) -> dict[int, dict[str, Any]]:
    with _in_form("JSON lines with an image_id each", path):
        rows = [json.loads(line) for line in _read_text(path).splitlines()]
        return {row.pop("image_id"): row for row in rows}


def _read_json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        table = json.loads(_read_text(path), object_hook=_pack_polygons)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    missing = [key for key in keys if not isinstance(table, dict) or key not in table]
    if missing:
        raise InputError(f"{path} is not in COCO format: the key {missing[0]!r} is missing")
    return table


def _pack_polygons(values: dict[str, Any]) -> dict[str, Any]:
    """Polygons as arrays while the file is parsed: lists of floats take four times the memory."""
    polygons = values.get("segmentation")
    if isinstance(polygons, list):
        with suppress(
            OverflowError, TypeError, ValueError
        ):  # what is damaged stays, and is met when it is decoded
            values["segmentation"] = [np.asarray(polygon, dtype=float) for polygon in polygons]
    return values


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    return path.read_text(encoding="utf-8-sig")


@contextmanager
def _in_form(form: str, path: Path) -> Iterator[None]:
    """One line that names the file instead of a missing key's or a wrong type's traceback."""
    try:
        yield
    except KeyError as error:
        raise InputError(f"{path} is not in {form}: a record lacks the key {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not in {form}: {error}") from None
