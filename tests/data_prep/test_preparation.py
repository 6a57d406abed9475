"""Resuming: a preparation killed anywhere, any number of times, ends in the same bytes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_coco import file_bytes

from anyscene.data.sample import ShardManifest
from anyscene.errors import DamageError, InputError
from data_prep.journal import RUNNING_NAME, Journal, whole_lines
from data_prep.preparation import Arguments, Outcome, Sample, finished_manifest, prepare
from data_prep.shards import ShardFile, finished_record, read_samples

Item = tuple[int, str | None]  # number, bucket of the sample

ARGUMENTS = Arguments("train", "test", 0, {"size": 8})
BUCKETS = st.lists(st.sampled_from([None, "8x8", "8x16", "16x8"]), min_size=1, max_size=25)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Maker:
    """Makes a sample of an item, and keeps in mind of which."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, item: Item) -> Outcome:
        number, bucket = item
        self.made.append(number)
        if bucket is None:
            return Outcome(None, Counter({"image: dull": 1}))
        members = {"mask.png": bytes([number] * (number % 7)), "meta.json": f"{number}".encode()}
        return Outcome(Sample(f"s{number:03d}", bucket, members), Counter({"group: dull": 1}))


def run(out: Path, items: list[Item], maker: Maker | None = None) -> ShardManifest:
    return finished_manifest(out, ARGUMENTS) or prepare(
        out, ARGUMENTS, items, maker or Maker(), workers=1, shard_samples=3
    )


def run_killed(out: Path, items: list[Item], maker: Maker, operations: int) -> bool:
    """Whether the run was killed: that is before it has changed so many files."""
    left = operations

    def killing(function: Callable) -> Callable:
        def before(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **keywords)

        return before

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "write_text"),
            (ShardFile, "_add"),
            (Journal, "_append"),
        ):
            patch.setattr(owner, name, killing(getattr(owner, name)))
        try:
            run(out, items, maker)
        except Killed:
            return True
    return False


def finished_numbers(out: Path) -> set[int]:
    """The items whose samples lie in finished shards."""
    return {
        int(key[1:])
        for path in out.glob("*.tar")
        if finished_record(path, "any")
        for key, _ in read_samples(path)
    }


@settings(deadline=None, max_examples=60)
@given(buckets=BUCKETS, kills=st.lists(st.integers(0, 90), max_size=4))
def test_a_killed_preparation_ends_in_the_same_bytes_and_makes_nothing_finished_again(
    tmp_path_factory: pytest.TempPathFactory, buckets: list[str | None], kills: list[int]
) -> None:
    items = list(enumerate([*buckets, "8x8"]))
    out = tmp_path_factory.mktemp("killed")
    run(out / "whole", items)
    made_before: set[int] = set()
    in_flight: set[int] = set()
    for operations in [*kills, 10_000]:
        finished = finished_numbers(out / "killed") if (out / "killed").is_dir() else set()
        maker = Maker()
        run_killed(out / "killed", items, maker, operations)
        assert all(finished_record(path, "any") for path in (out / "killed").glob("*.tar"))
        again = made_before & set(maker.made)
        assert not again & finished
        assert {number for number in again if items[number][1] is None} <= in_flight
        made_before |= set(maker.made)
        in_flight |= set(maker.made[-1:])
    assert file_bytes(out / "killed") == file_bytes(out / "whole")


@settings(deadline=None, max_examples=60)
@given(
    buckets=BUCKETS,
    operations=st.integers(5, 90),
    lost=st.integers(0, 200),
    tail=st.sampled_from([b"", b"\0\0\0\n", b'["8x8"', b"[null, {}]"]),
)
def test_a_journal_that_lost_its_end_with_the_machine_costs_work_but_no_sample(
    tmp_path_factory: pytest.TempPathFactory,
    buckets: list[str | None],
    operations: int,
    lost: int,
    tail: bytes,
) -> None:
    items = list(enumerate([*buckets, "8x8"]))
    out = tmp_path_factory.mktemp("lost")
    run(out / "whole", items)
    if run_killed(out / "torn", items, Maker(), operations):
        path = out / "torn" / RUNNING_NAME
        data = path.read_bytes() if path.is_file() else b""
        path.write_bytes(data[: max(0, len(data) - lost)] + tail)
        if run_killed(out / "torn", items, Maker(), 12) and path.is_file():
            assert [end for _, end in whole_lines(path)][-1:] == [path.stat().st_size]
        run(out / "torn", items)
    assert file_bytes(out / "torn") == file_bytes(out / "whole")


ITEMS: list[Item] = [(number, "8x8") for number in range(8)]


def test_a_damaged_or_missing_index_is_made_again_with_its_shard(tmp_path: Path) -> None:
    run(tmp_path / "whole", ITEMS)
    for damage in (Path.unlink, lambda path: path.write_text('{"bytes": 1}')):
        out = tmp_path / f"{damage}"
        assert run_killed(out, ITEMS, Maker(), 28)
        damage(out / "train-000000.tar.index")
        maker = Maker()
        run(out, ITEMS, maker)
        assert maker.made[:3] == [0, 1, 2]
        assert file_bytes(out) == file_bytes(tmp_path / "whole")


def test_an_item_that_changed_since_the_kill_is_not_mixed_in(tmp_path: Path) -> None:
    assert run_killed(tmp_path, ITEMS, Maker(), 20)
    changed: list[Item] = [(number, "16x8") for number in range(8)]
    with pytest.raises(DamageError, match=r"image 4 of 8 has changed since .* was begun"):
        run(tmp_path, changed)


def test_an_unfinished_folder_is_not_continued_with_other_arguments(tmp_path: Path) -> None:
    assert run_killed(tmp_path, ITEMS, Maker(), 20)
    assert finished_manifest(tmp_path, ARGUMENTS) is None
    other = Arguments("train", "test", 1, {"size": 16})
    message = r"made otherwise \(seed is 0 there, 1 asked for; size is 8 there, 16 asked for\)"
    with pytest.raises(InputError, match=message):
        finished_manifest(tmp_path, other)
    newer = Arguments("train", "test", 0, {"size": 8}, ARGUMENTS.tools | {"numpy": "99"})
    with pytest.raises(InputError, match=r"numpy is .* there, 99 asked for"):
        finished_manifest(tmp_path, newer)
    prepare(tmp_path, other, ITEMS[:2], Maker(), workers=1, shard_samples=3)  # as --overwrite does
    assert set(file_bytes(tmp_path)) == {
        "manifest.json",
        "train-000000.tar",
        "train-000000.tar.index",
    }


def test_two_processes_cannot_prepare_one_folder(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(InputError, match="another process is preparing"):
        run(tmp_path, ITEMS)
    assert run(tmp_path, ITEMS).samples == 8


def test_without_a_sample_nothing_stays_in_the_way_of_better_arguments(tmp_path: Path) -> None:
    nothing: list[Item] = [(0, None), (1, None)]
    with pytest.raises(InputError, match=r"none of the 2 images gives .*: image: dull \(2\)"):
        run(tmp_path, nothing)
    assert list(tmp_path.iterdir()) == []


def test_without_a_sample_nothing_is_overwritten(tmp_path: Path) -> None:
    """Nor by a run that is killed before its first sample."""
    run(tmp_path, ITEMS)
    before = file_bytes(tmp_path)
    nothing: list[Item] = [(0, None), (1, None)]
    other = Arguments("train", "test", 1, {"size": 16})

    def overwrite(items: list[Item], make: Callable[[Item], Outcome]) -> ShardManifest:
        return prepare(tmp_path, other, items, make, workers=1, shard_samples=3)

    with pytest.raises(InputError, match="none of the 2 images gives a sample"):
        overwrite(nothing, Maker())
    assert file_bytes(tmp_path) == before

    def killed(item: Item) -> Outcome:
        if item[1]:
            raise KeyboardInterrupt
        return Maker()(item)

    with pytest.raises(KeyboardInterrupt):
        overwrite([*nothing, *ITEMS], killed)
    assert file_bytes(tmp_path).items() > before.items()
    manifest = overwrite([*nothing, *ITEMS[:2]], Maker())
    assert sum(manifest.buckets.values()) == manifest.samples > 0
    assert set(file_bytes(tmp_path)) == {"manifest.json", *shard_names(manifest)}


def shard_names(manifest: ShardManifest) -> set[str]:
    return {record.name + end for record in manifest.shards for end in ("", ".index")}
