"""The contact sheet and the page of statistics of a shard folder."""

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from shard_folders import SIZE, Members, drawn_sample, rewrite, write_manifest, write_shards

from anyscene.cli import main
from anyscene.data.sample import ShardManifest
from anyscene.errors import DamageError, InputError
from data_prep.inspect import Bar, by_number, by_share, inspect, mean, reasons
from data_prep.inspect_statistics import gather


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples: a tile in each, a dog in every other one that no caption names. Read only."""
    return write_shards(tmp_path_factory.mktemp("drawn") / "train")


def replace_in_meta(words: dict[bytes, bytes], samples: list[tuple[str, Members]]) -> None:
    """Replace words in the `meta.json` of samples."""
    for _, members in samples:
        for old, new in words.items():
            members["meta.json"] = members["meta.json"].replace(old, new)


def test_statistics_count_what_the_samples_say(shards: Path) -> None:
    found = gather(ShardManifest.read(shards))
    assert found.samples == 6
    assert {name: vars(counts) for name, counts in found.categories.items()} == {
        "tile": {"elements": 6, "samples": 6, "unnamed": 0},
        "dog": {"elements": 3, "samples": 3, "unnamed": 3},
    }
    assert found.elements == {1: 3, 2: 3}
    assert found.captions == {1: 3, 2: 3}
    assert found.words == {4: 6, 2: 3}
    # numbers 1 to 6 have tiles of 20 rows and 4 to 14 columns, odd ones a dog of 8 x 20
    areas = [20 * (2 * n + 2) + 160 * (n % 2) for n in range(1, 7)]
    assert found.shares == Counter(int(area / SIZE**2 * 20) for area in areas)
    assert found.quality.total() == 9
    assert found.worst_masks[0] == (0.1, "drawn-001", "dog")
    assert [quality for quality, *_ in found.worst_masks] == pytest.approx(
        [0.1, 0.1, 0.2, 0.3, 0.3, 0.4, 0.5, 0.5, 0.6]
    )
    assert (found.nameable, found.unnamed) == (6, 0)
    assert (found.nameable_captions, found.unnamed_captions) == (9, 3)  # "a scene"
    members = [drawn_sample(number).sample for number in range(1, 7)]
    sizes = Counter()
    for sample in members:
        assert sample
        sizes.update({name: len(data) for name, data in sample.members.items()})
    assert found.bytes == sizes


def test_samples_of_which_no_caption_names_a_category_are_counted(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "train")

    rewrite(folder, partial(replace_in_meta, {b"tiles of": b"plates of"}))
    found = gather(ShardManifest.read(folder))
    assert (found.nameable, found.unnamed) == (6, 2)
    first = found.unnamed_examples[0]
    assert (first.key, first.categories) == ("drawn-001", ["dog", "tile"])
    assert found.categories["tile"].unnamed == 2


def test_masks_without_classes_are_not_named_or_unnamed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "train")

    rewrite(folder, partial(replace_in_meta, {b'"tile"': b'"object"', b'"dog"': b'"object"'}))
    found = gather(ShardManifest.read(folder))
    assert (found.nameable, found.nameable_captions) == (4, 6)
    assert vars(found.categories["object"]) == {"elements": 3, "samples": 0, "unnamed": 0}


@pytest.mark.parametrize("form", ["without index", "in parts"])
def test_statistics_are_the_same_however_the_samples_lie(
    shards: Path, form: str, tmp_path: Path
) -> None:
    folder = write_shards(tmp_path / "train", parts=3 if form == "in parts" else 1)
    if form == "without index":
        for path in folder.glob("*.index"):
            path.unlink()
    assert gather(ShardManifest.read(folder)) == gather(ShardManifest.read(shards))


class Page(HTMLParser):
    """Visible text, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data.split()


def test_the_page_is_whole_and_loads_nothing(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "inspect", str(shards), "--out", str(out), "--samples=2"]) == 0
    assert str(out / "statistics.html") in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"statistics.html", "contact_sheet.png"}
    page = Page((out / "statistics.html").read_text())
    assert page.open == []
    assert all(source.startswith("data:") for source in page.sources)
    text = " ".join(page.words)
    assert "Masks kept" not in text
    for part in (
        "6, of which 100.0% were kept",
        "too small 6 100.0%",
        "In 0 of 6 samples (0.0%) no caption names any category",
        "3 of 9 captions (33.3%) name none by themselves",
        "dog 3 3 3 100%",
        "tile 6 6 0 0%",
        "48x48 6 100.0%",
        "2 3 33.3% 4 6 66.7%",  # words in a caption
        "5% to 10% 2 33.3% 10% to 15% 3 50.0% 15% to 20% 1 16.7%",  # areas, counted by hand above
        "drawn-001 dog 0.10",
        "size 48",
    ):
        assert part in text, part


def test_the_page_says_what_was_left_out_and_which_captions_name_nothing(tmp_path: Path) -> None:
    """Twelve images of which six were kept; of two samples no caption names tile or dog."""
    folder = write_shards(tmp_path / "train")

    rewrite(folder, partial(replace_in_meta, {b"tiles of": b"plates of"}))
    manifest = ShardManifest.read(folder)
    manifest.rejected = {
        "image: no instances": 4,
        "image: unreadable": 2,
        "group: truncated": 3,
        "group: too small": 1,
        "element: a damaged mask": 5,
        "refinement: SAM's mask agrees too little": 3,
        "refinement: SAM's mask reaches the border": 1,
    }
    write_manifest(folder, manifest)
    text = " ".join(Page((inspect(folder) / "statistics.html").read_text()).words)
    for part in (
        "12, of which 50.0% were kept",
        "no instances 4 33.3% unreadable 2 16.7%",
        "truncated 3 75.0% too small 1 25.0%",
        "a damaged mask 5 100.0% Masks kept as annotated",
        "Masks SAM's mask agrees too little 3 75.0% SAM's mask reaches the border 1 25.0%",
        "In 2 of 6 samples (33.3%) no caption names any category",
        "5 of 9 captions (55.6%) name none by themselves",  # "a scene" thrice, "plates ..." twice
        "tile 6 6 2 33% dog 3 3 3 100%",
    ):
        assert part in text, part


def test_an_inspection_is_the_same_again_and_leaves_the_shards_alone(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "train")
    before = sorted(path.name for path in folder.iterdir())
    out = inspect(folder)
    assert out == tmp_path / "train-inspect"
    pages = [(inspect(folder) / name).read_bytes() for name in ("statistics.html",) * 2]
    assert pages[0] == pages[1]
    assert sorted(path.name for path in folder.iterdir()) == before
    assert re.search(r"data:image/(png|jpeg);base64,", pages[0].decode())


def test_what_cannot_be_inspected_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no shards in"):
        inspect(tmp_path)
    folder = write_shards(tmp_path / "train")
    with pytest.raises(InputError, match="samples=0 must be at least 1"):
        inspect(folder, samples=0)
    manifest = ShardManifest.read(folder)
    write_manifest(folder, replace(manifest, samples=7))
    with pytest.raises(DamageError, match="numbers of samples do not agree"):
        inspect(folder)
    write_manifest(folder, manifest)
    rewrite(folder, lambda samples: samples[1][1].update({"mask.png": b"none"}))
    with pytest.raises(DamageError, match=r"train-000000\.tar: drawn-002 cannot be shown"):
        inspect(folder, samples=6)
    rewrite(folder, lambda samples: samples[1][1].pop("meta.json"))
    with pytest.raises(DamageError, match=r"train-000000\.tar: drawn-002: meta\.json is missing"):
        inspect(folder)
    assert not (tmp_path / "train-inspect").exists()


def test_reasons_are_shares_of_what_they_count(shards: Path) -> None:
    manifest = ShardManifest.read(shards)
    manifest.rejected = {"image: a": 3, "image: b": 1, "group: c": 6, "group: d": 2, "other": 1}
    manifest.rejected |= {"refinement: e": 5, "element: f": 0, "damaged sample: g": 2}
    found = reasons(manifest)
    assert found["image"] == [Bar("a", 3, 3 / 12), Bar("b", 1, 1 / 12)]  # 6 samples
    assert found["group"] == [Bar("c", 6, 0.75), Bar("d", 2, 0.25)]
    assert found["element"] == []
    assert "refinement" not in found


def test_many_numbers_are_counted_in_ranges() -> None:
    assert by_number(Counter({3: 1, 5: 3})) == [Bar("3", 1, 0.25), Bar("5", 3, 0.75)]
    ranges = by_number(Counter(range(10, 110)))
    assert [bar.count for bar in ranges] == [5] * 20
    assert (ranges[0].label, ranges[-1].label) == ("10 to 14", "105 to 109")
    assert by_share(Counter({1: 1, 3: 1})) == [
        Bar("5% to 10%", 1, 0.5),
        Bar("10% to 15%", 0, 0.0),
        Bar("15% to 20%", 1, 0.5),
    ]
    assert mean(Counter({2: 3, 4: 1})) == 2.5
