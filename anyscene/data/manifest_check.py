"""What the fields of a shard folder's `manifest.json` must be: it may come from anywhere.

Names and checksums become names of files here, sizes and numbers of samples arrays, so that
nothing of a forged manifest is used before all of it was looked at.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from reprlib import repr as shortened
from typing import Any

MOST = 2**53  # what any reader of JSON holds exactly


@dataclass(frozen=True)
class Form:
    """What a value must be, for a person and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= MOST  # a bool is an int, too


def _is_text(value: Any, pattern: str = "") -> bool:
    return isinstance(value, str) and bool(not pattern or re.fullmatch(pattern, value))


def _is_table(value: Any, key: Form, entry: Form | None) -> bool:
    return isinstance(value, dict) and all(
        key.fits(name) and (entry is None or entry.fits(own)) for name, own in value.items()
    )


COUNT = Form("a whole number, at least 0", partial(_is_number, least=0))
POSITIVE = Form("a whole number, at least 1", partial(_is_number, least=1))
SEED = Form("a whole number", partial(_is_number, least=-MOST))
TEXT = Form("a text", _is_text)
SPLIT = Form("letters, digits, '-' and '_'", partial(_is_text, pattern=r"[\w-]+"))
FILE = Form("the name of a file in the folder", partial(_is_text, pattern=r"\w[\w.-]*"))
SHA256 = Form("64 hexadecimal digits", partial(_is_text, pattern=r"[0-9a-f]{64}"))
SIZE = Form("HEIGHTxWIDTH in pixels", partial(_is_text, pattern=r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}"))
LIST = Form("a list", lambda value: isinstance(value, list))
TABLE = Form("a table of names", partial(_is_table, key=TEXT, entry=None))
TEXTS = Form("a table of names and texts", partial(_is_table, key=TEXT, entry=TEXT))
COUNTS = Form("a table of names and whole numbers", partial(_is_table, key=TEXT, entry=COUNT))
SIZES = Form("a table of HEIGHTxWIDTH and whole numbers", partial(_is_table, key=SIZE, entry=COUNT))
DTYPE = Form("fp16, bf16 or fp32", lambda value: value in ("fp16", "bf16", "fp32"))
BASE = Form("null, or a table of names", lambda value: value is None or TABLE.fits(value))

MANIFEST: Mapping[str, Form] = {
    "format": TEXT,
    "version": POSITIVE,
    "split": SPLIT,
    "seed": SEED,
    "source": TEXT,
    "filters": TABLE,
    "rejected": COUNTS,
    "tools": TEXTS,
    "samples": COUNT,
    "buckets": SIZES,
    "shards": LIST,
    "base": BASE,
}
SHARD: Mapping[str, Form] = {
    "name": FILE,
    "samples": COUNT,
    "bytes": COUNT,
    "sha256": SHA256,
    "bucket": SIZE,
}
CACHE: Mapping[str, Form] = {  # of `base`, which may have more
    "encoder_sha256": SHA256,
    "dtype": DTYPE,
    "channels": POSITIVE,
    "factor": POSITIVE,
}
EARLIER_CACHE: Mapping[str, Form] = {  # named the whole base instead
    "sha256": SHA256,
    **{name: form for name, form in CACHE.items() if name != "encoder_sha256"},
}


def manifest_mistake(values: Any) -> str | None:
    """The first thing that is wrong with the values of a manifest, in one line."""
    return next(_mistakes(values), None)


def _mistakes(values: Any) -> Iterator[str]:
    if not isinstance(values, dict):
        yield "it holds no fields"
        return
    yield from _wrong(values | {"base": values.get("base")}, MANIFEST, "")
    yield from _unknown(values, MANIFEST, "")
    for number, record in enumerate(values["shards"]):
        where = f"shards[{number}]"
        if not isinstance(record, dict):
            yield f"{where}={shortened(record)} must be a table of names"
            continue
        yield from _wrong(record, SHARD, f"{where}.")
        yield from _unknown(record, SHARD, f"{where}.")
    if (base := values.get("base")) is not None:
        yield from _wrong(base, EARLIER_CACHE if "sha256" in base else CACHE, "base.")


def _wrong(values: Mapping[str, Any], forms: Mapping[str, Form], where: str) -> Iterator[str]:
    for name, form in forms.items():
        if name not in values:
            yield f"{where}{name} is missing"
        elif not form.fits(values[name]):
            yield f"{where}{name}={shortened(values[name])} must be {form.words}"


def _unknown(values: Mapping[str, Any], forms: Mapping[str, Form], where: str) -> Iterator[str]:
    for name in values:
        if name not in forms:
            yield f"{shortened(where + name)} is no field"
