"""Captions of images: one JSON, CSV or parquet file for all, or NAME.txt beside each."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from anyscene.errors import InputError

NAME_COLUMN = "file_name"
CAPTION_COLUMNS = ("caption", "captions")
UNUSED = "caption: its name is not that of one image"
KINDS = "must be JSON, CSV or parquet"

Captions = dict[str, tuple[str, ...]]


def read_captions(path: Path) -> Captions:
    """The captions in a file by the image names that it uses, none of them empty.

    JSON is {name: caption or [caption, ...]} or a list of {file_name, caption or captions}; CSV and
    parquet have these columns, and may have a row a caption. Raises `InputError` for another form.
    """
    readers = {".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise InputError(f"captions={path} {KINDS}, by its ending")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    found: defaultdict[str, list[str]] = defaultdict(list)
    try:
        for name, captions in readers[path.suffix.lower()](path):
            found[_name(name)] += clean_captions(captions)
    except (ValueError, csv.Error) as error:  # also of JSON, of text in another encoding, of arrow
        raise InputError(f"{path} holds no captions by name: {error}") from None
    return {name: tuple(captions) for name, captions in found.items() if captions}


def read_lines(path: Path) -> tuple[str, ...]:
    """The lines of a text, each a caption; none without that file.

    Raises `ValueError` where it is not UTF-8.
    """
    return clean_captions(path.read_text("utf-8-sig").splitlines()) if path.is_file() else ()


def assign_captions(
    images: Sequence[str], captions: Captions, rejected: Counter[str]
) -> list[tuple[str, ...]]:
    """The captions of each image, a path below the source, with or without its ending in the file.

    A bare file name stands for an image below a folder only where no other image bears it.
    `rejected` counts the captions that no image has got.
    """
    bare = Counter(PurePosixPath(image).stem for image in images)
    left = dict(captions)

    def of(image: str) -> tuple[str, ...]:
        path = PurePosixPath(image)
        names = [image, str(path.with_suffix(""))]
        if bare[path.stem] == 1:
            names += [path.name, path.stem]
        name = next((name for name in names if name in captions), None)
        if name is None:
            return ()
        left.pop(name, None)
        return captions[name]

    found = [of(image) for image in images]
    if unused := sum(map(len, left.values())):
        rejected[UNUSED] += unused
    return found


def clean_captions(captions: object) -> tuple[str, ...]:
    """One caption or several, each as `clean_caption`, without empty ones."""
    texts = [captions] if isinstance(captions, str) else captions
    if not isinstance(texts, Iterable) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{captions!r} is neither a caption nor a list of them")
    return tuple(text for text in map(clean_caption, texts) if text)


def clean_caption(text: str) -> str:
    """A caption without needless white space, and without halves of characters.

    JSON that was cut within an emoji ends in half of one, which no tokenizer takes.
    """
    return " ".join(text.encode(errors="ignore").decode().split())


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is not an image's name")
    return name.removeprefix("./")


def _json_rows(path: Path) -> Iterator[tuple[object, object]]:
    table = json.loads(path.read_text("utf-8-sig"))
    if isinstance(table, dict):
        yield from table.items()
    elif isinstance(table, list):
        for row in table:
            if not isinstance(row, dict):
                raise ValueError(f"{row!r} is no record with {NAME_COLUMN} and caption")
            column = _caption_column(row)
            yield row[NAME_COLUMN], row[column]
    else:
        raise ValueError("neither {name: caption} nor a list of records")


def _csv_rows(path: Path) -> Iterator[tuple[object, object]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file, strict=True)
        column = _caption_column(dict.fromkeys(rows.fieldnames or ()))
        for row in rows:
            if None in row:  # where DictReader puts fields without a name
                raise ValueError(
                    f"line {rows.line_num} has more fields than the header; "
                    "put captions that have commas between quotes"
                )
            yield row[NAME_COLUMN], row[column] or ""


def _parquet_rows(path: Path) -> Iterator[tuple[object, object]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path} needs pyarrow: pip install 'anyscene[parquet]'") from None
    with parquet.ParquetFile(path) as table:
        column = _caption_column(dict.fromkeys(table.schema_arrow.names))
        for batch in table.iter_batches(columns=[NAME_COLUMN, column]):
            for row in batch.to_pylist():
                yield row[NAME_COLUMN], row[column] or ""


def _caption_column(row: Mapping[str, Any]) -> str:
    """Which column holds the captions. Raises `ValueError` where it or the name is missing."""
    column = next((name for name in CAPTION_COLUMNS if name in row), None)
    if column is None or NAME_COLUMN not in row:
        raise ValueError(
            f"it has {', '.join(row) or 'no columns'}; needed are {NAME_COLUMN} and caption"
        )
    return column
