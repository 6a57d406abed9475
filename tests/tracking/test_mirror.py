"""What W&B is told of a run folder, and when; and what is read of its own files."""

import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from run_files import RunFiles, all_figures

from anyscene.tracking import mirror
from anyscene.tracking.mirror import Mirror
from anyscene.tracking.transaction_log import (
    BLOCK_BYTES,
    FULL,
    HEADER_BYTES,
    LAST,
    PART,
    STEP,
    Record,
    Recorded,
    read_recorded,
)


class Experiment:
    """As much of W&B's run as the mirror sees: a row is open until one of a later step begins."""

    id = "tiny-1234"
    step = 0

    def __init__(self) -> None:
        self.config = SimpleNamespace(update=self.configure)
        self.steps: list[tuple[int | None, int]] = []

    def configure(self, _: Any, allow_val_change: bool = False) -> None:
        assert allow_val_change  # a resumed run has more starts, and W&B refuses other values

    def define_metric(self, *_: Any, **__: Any) -> None:
        pass

    def log_artifact(self, *_: Any, **__: Any) -> None:
        pass

    def log(self, row: dict[str, Any], step: int | None) -> None:
        self.steps.append((step, row[STEP]))
        self.step = self.step if step is None else step


@pytest.fixture
def files(demo_shards: Path, tmp_path: Path) -> RunFiles:
    return RunFiles.make(tmp_path / "tiny", demo_shards)


def test_figures_of_earlier_steps_come_before_a_picture(files, monkeypatch):
    """Training goes on while the mirror looks: here from step 2 to 5, with a validation."""
    csv = files.begin(0)
    files.do(csv, 1, 2)
    experiment = Experiment()
    told = Mirror(files.folder, experiment, pytest.fail)
    parse_rows = mirror.parse_rows

    def train_on(lines: str) -> list:
        files.do(csv, 3, 5)
        return parse_rows(lines)

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "parse_rows", train_on)
        told.update()
    told.update()
    assert experiment.steps == [(step, step) for step in (1, 2, 3, 4, 5)]


def test_rows_that_an_online_run_is_past_are_told_under_its_next_numbers(files):
    """W&B drops a row whose number is below the last one; our axis is the step."""
    files.do(files.begin(0), 1, 3)
    experiment = Experiment()
    experiment.step = 3
    Mirror(files.folder, experiment, pytest.fail).update()
    assert experiment.steps == [(None, 1), (None, 2), (3, 3)]


def test_a_table_that_a_killed_start_left_out_comes_before_newer_figures(files, monkeypatch):
    files.do(files.begin(0), 1, 5)
    figures = all_figures(4) - {(4, "samples/table")}
    monkeypatch.setattr(mirror, "read_recorded", lambda _: Recorded(figures))
    experiment = Experiment()
    Mirror(files.folder, experiment, pytest.fail).update()
    assert experiment.steps == [(4, 4), (5, 5)]


def test_data_that_moved_and_an_artifact_that_is_refused_stop_nothing(tmp_path, monkeypatch):
    files = RunFiles.make(tmp_path / "tiny", tmp_path / "moved")
    files.do(files.begin(0), 1, 3)
    experiment, told = Experiment(), []

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(experiment, "log_artifact", refuse)
    Mirror(files.folder, experiment, told.append).update()
    assert experiment.steps == [(1, 1), (2, 2), (3, 3)]
    assert told == ["W&B does not take the artifact tiny-1234-checkpoint (no room)"]


def test_a_picture_is_told_once_over_all_starts(files, monkeypatch):
    files.do(files.begin(0), 1, 2)
    picture = files.folder / "samples/step-00000002/overfit.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(picture)
    first = Mirror(files.folder, Experiment(), pytest.fail)
    first.update()
    assert (2, "samples/overfit") in first.recorded.figures
    monkeypatch.setattr(mirror, "read_recorded", lambda _: first.recorded)  # as W&B's own files say
    again = Experiment()
    Mirror(files.folder, again, pytest.fail).update()
    assert again.steps == []


def test_a_checkpoint_that_goes_meanwhile_stops_nothing(files):
    """It was listed, and removed for newer ones before its time was read."""
    files.do(files.begin(0), 1, 3)
    (files.folder / "checkpoints/step-00000001.json").symlink_to("gone")
    experiment = Experiment()
    Mirror(files.folder, experiment, pytest.fail).update()
    assert [step for step, _ in experiment.steps] == [1, 2, 3]


@pytest.mark.parametrize("torn", ["cut", "zeros", "flipped"])
def test_a_torn_record_ends_a_file(torn, tmp_path):
    """A node that crashed: the next start tells what is missing, where it stopped for good."""
    records = b"".join(part_of(FULL, row_of(step)) for step in (1, 2))
    third = part_of(FULL, row_of(3))
    match torn:
        case "cut":
            third = third[:-1]
        case "zeros":
            third = third[:9] + bytes(len(third) - 9)
        case "flipped":
            third = third[:-2] + bytes([third[-2] ^ 1]) + third[-1:]
    assert steps_of(tmp_path, records + third) == {1, 2}


@pytest.mark.parametrize("left", [0, 3, 7, 20])
def test_records_over_blocks(left, tmp_path):
    """The first one leaves so many bytes of its block: none, padding, a part without data, a part;
    the second one has more than a block."""
    size = BLOCK_BYTES - HEADER_BYTES - PART.size - left - len(row_of(1, ""))
    first = row_of(1, size * "x")
    while len(first) + HEADER_BYTES + PART.size + left > BLOCK_BYTES:
        size -= 1
        first = row_of(1, size * "x")
    written = part_of(FULL, first)
    second, kind = row_of(2, 40_000 * "y"), 2
    while second:
        room = BLOCK_BYTES - (HEADER_BYTES + len(written)) % BLOCK_BYTES
        if room < PART.size:
            written += bytes(room)
            continue
        own, second = second[: room - PART.size], second[room - PART.size :]
        written += part_of(kind if second else LAST, own)
        kind = 3
    assert (BLOCK_BYTES - HEADER_BYTES - PART.size - len(first)) == left
    assert steps_of(tmp_path, written + part_of(FULL, row_of(3))) == {1, 2, 3}


def steps_of(run: Path, records: bytes) -> set[int]:
    """The steps that are read of a run whose only file of W&B has these records."""
    folder = run / "wandb" / "offline-run-1"
    folder.mkdir(parents=True)
    (folder / "run-x.wandb").write_bytes(b":W&B\xbe\xef\x00" + records)
    return {step for step, name in read_recorded(run).figures if name == "loss"}


def row_of(step: int, text: str = "") -> bytes:
    """A row of history as W&B writes it."""
    record: Any = Record()
    for name, value in ((STEP, step), ("loss", step / 8), ("text", text)):
        item = record.history.item.add()
        item.key, item.value_json = name, json.dumps(value)
    return record.SerializeToString()


def part_of(kind: int, data: bytes) -> bytes:
    """Of a block: all of a record, its first, a middle or its last part."""
    return PART.pack(zlib.crc32(bytes([kind]) + data), len(data), kind) + data
