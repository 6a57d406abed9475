"""Benchmark folders that are written whole or not at all, with a checksum of every file."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anyscene.benchmark.scenes import (
    CARD_NAME,
    FORMAT,
    RECORD_NAME,
    SCENES_NAME,
    VERSION,
    Benchmark,
    BenchmarkScene,
    categories_of,
    read_benchmark,
)
from anyscene.errors import InputError
from anyscene.files import sha256_of, write_json
from anyscene.new_folder import new_folder


def freeze(
    out: Path, arguments: dict[str, Any], write: Callable[[Path], None], *, overwrite: bool
) -> Benchmark:
    """The benchmark that `write` makes in a folder, renamed to `out` when it is whole.

    One that was built with the same arguments is checked and left as it is.

    Raises:
        InputError: `out` holds something else, or another process builds it.
        DamageError: `out` was built with these arguments but has changed.
    """
    if out.exists() and not overwrite:
        found = read_benchmark(out, check=True)
        if found.record["arguments"] != json.loads(json.dumps(arguments)):
            raise InputError(
                f"{out} holds a benchmark built otherwise; choose another folder, or --overwrite"
            )
        return found
    if out.exists() and any(out.iterdir()) and not (out / RECORD_NAME).is_file():
        raise InputError(f"--overwrite: {out} is no benchmark; choose another folder")
    with new_folder(out, "build") as part:
        write(part)
    return read_benchmark(out.resolve())


def seal(folder: Path, scenes: Sequence[BenchmarkScene], record: dict[str, Any], card: str) -> None:
    """Write the list of scenes, the data card, and last `benchmark.json` with all checksums."""
    lines = (json.dumps(scene, ensure_ascii=False, sort_keys=True) + "\n" for scene in scenes)
    (folder / SCENES_NAME).write_text("".join(lines), encoding="utf-8")
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    write_json(folder / RECORD_NAME, record | {"files": names})


def record_of(scenes: Sequence[BenchmarkScene], arguments: dict[str, Any]) -> dict[str, Any]:
    """What `benchmark.json` says but for the checksums."""
    elements = Counter(element["category"] for scene in scenes for element in scene["elements"])
    shown = Counter(category for scene in scenes for category in categories_of(scene))
    return {
        "format": FORMAT,
        "version": VERSION,
        "arguments": json.loads(json.dumps(arguments)),
        "scenes": len(scenes),
        "layouts": dict(Counter(scene["layout"] for scene in scenes)),
        "real_images": len({image for scene in scenes for image in scene["source_images"]}),
        "categories": {
            name: {"scenes": shown[name], "elements": elements[name]} for name in sorted(shown)
        },
    }
