"""What W&B has recorded of a run on this machine, from its own files. No torch here.

A `.wandb` file is a log in LevelDB's format (doc/log_format.md there): after a header of 7 bytes
come blocks of 32 KiB with records or parts of them, each after its checksum, length and type. A
record is a `Record` of wandb's protocol.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

HEADER_BYTES = 7  # of the file: ":W&B", two bytes of magic, version
BLOCK_BYTES = 32768
PART = struct.Struct("<IHB")  # CRC, length, type
FULL, LAST = 1, 4
STEP = "trainer/global_step"


@dataclass
class Recorded:
    """What is in the logs of a run: figures and media by step, and artifacts."""

    figures: set[tuple[int, str]] = field(default_factory=set)
    artifacts: set[tuple[str, str]] = field(default_factory=set)
    """Name and digest."""


def read_recorded(run: Path) -> Recorded:
    """What all starts of a run folder have recorded, online or offline."""
    recorded = Recorded()
    for record in read_run(run):
        if record.HasField("history"):
            row = history_row(record)
            recorded.figures |= {(int(row[STEP]), name) for name in row if STEP in row}
        elif record.HasField("artifact"):
            recorded.artifacts.add((record.artifact.name, record.artifact.digest))
    return recorded


def read_run(run: Path) -> Iterator[Any]:
    """The records of all starts, in order."""
    for path in sorted(run.glob("wandb/*run-*/run-*.wandb")):
        yield from read_records(path)


def read_records(path: Path) -> Iterator[Any]:
    """The records of a file, up to where a kill or a crash has torn it."""
    data = path.read_bytes()
    place, parts = HEADER_BYTES, b""
    while place + PART.size <= len(data):
        if BLOCK_BYTES - place % BLOCK_BYTES < PART.size:  # padding
            place += BLOCK_BYTES - place % BLOCK_BYTES
            continue
        checksum, length, kind = PART.unpack_from(data, place)
        place += PART.size
        part = data[place : place + length]
        if zlib.crc32(bytes([kind]) + part) != checksum:
            return
        parts += part
        place += length
        if kind in (FULL, LAST):
            record: Any = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history_row(record: Any) -> dict[str, Any]:
    """The values of a row of history by name; of media one of their properties."""
    return {
        item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
    }
