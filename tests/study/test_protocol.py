"""The protocol: the paper's numbers as shipped, and one line for every mistake in a file."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_study import PROTOCOL

from anyscene.errors import ConfigError
from anyscene.study.protocol import Scale, parse_protocol, read_protocol

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "study"


def test_the_paper_s_protocol_is_shipped():
    protocol = read_protocol(CONFIGS / "paper.yaml")
    assert (protocol.foregrounds, protocol.prompts, protocol.images_per_prompt) == (30, 10, 4)
    assert (protocol.sets, protocol.annotators, protocol.values) == (30, 10, (1, 2, 3, 4))
    assert protocol.items(methods=4) == 4800
    names = [criterion.name for criterion in protocol.criteria]
    assert names == ["image_quality", "scene_harmony", "object_fidelity"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_protocol_loads(path: Path):
    assert read_protocol(path).name == path.stem


def test_what_a_data_base_keeps_reads_back_as_the_same_protocol():
    kept = json.loads(json.dumps(asdict(PROTOCOL)))
    assert parse_protocol(kept, "here") == PROTOCOL


def test_options_of_a_pair_have_keys_in_the_order_of_the_screen():
    pairwise = replace(PROTOCOL, kind="pairwise", ties=True)
    assert [(one.key, one.value) for one in pairwise.options] == [("1", -1), ("2", 0), ("3", 1)]
    assert replace(pairwise, ties=False).values == (-1, 1)
    assert pairwise.items(methods=4) == 6 * PROTOCOL.cells


def values(**changes: Any) -> dict[str, Any]:
    """A protocol as YAML gives it; None takes a key away."""
    own = {**json.loads(json.dumps(asdict(PROTOCOL))), **changes}
    return {key: value for key, value in own.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"annotatorz": 3}, ["'annotatorz'", "'annotators'"]),
        ({"annotators": None}, ["annotators has no value"]),
        ({"annotators": "three"}, ["annotators='three'", "type int"]),
        ({"annotators": True}, ["annotators=True", "type int"]),
        ({"annotators": 0}, ["annotators=0", "greater than 0"]),
        ({"annotators": 20}, ["annotators=20", "sets x ratings_per_image = 3 x 2"]),
        ({"ratings_per_image": 4}, ["ratings_per_image=4", "annotators=3"]),
        ({"sets": 7}, ["sets=7", "at most 6"]),
        ({"seed": -1}, ["seed=-1", "negative"]),
        ({"seconds_per_item": float("inf")}, ["seconds_per_item=inf"]),
        ({"kind": "ranking"}, ["kind='ranking'", "rating, pairwise"]),
        ({"name": "Small Study"}, ["'Small Study'", "a-z"]),
        ({"criteria": []}, ["criteria=[]", "one or more"]),
        ({"criteria": "quality"}, ["criteria", "list"]),
        ({"criteria": ["quality"]}, ["criteria[0]", "key: value"]),
        ({"criteria": [asdict(PROTOCOL.criteria[0])] * 2}, ["'quality', 'quality'", "its own"]),
        ({"scale": {"low": 1, "high": 12}}, ["scale=1..12", "0..9"]),
        ({"scale": {"low": 1, "high": 5}}, ["4 labels", "5 values 1..5"]),
        ({"scale": {"labels": [1, 2, 3, 4]}}, ["scale.labels[0]=1", "type str"]),
        ({"exclusion": {"max_failed_checks": -1}}, ["exclusion.max_failed_checks=-1"]),
    ],
)
def test_a_mistake_is_told_in_one_line(changes: dict[str, Any], parts: list[str], tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values(**changes)))
    with pytest.raises(ConfigError) as error:
        read_protocol(path)
    message = str(error.value)
    assert "\n" not in message
    for part in [*parts, str(path)]:
        assert part in message


@pytest.mark.parametrize("text", ["a: [", "- a\n- b", "", "word"])
def test_a_file_that_is_no_protocol(text: str, tmp_path: Path):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        read_protocol(path)
    with pytest.raises(ConfigError, match="no protocol file"):
        read_protocol(tmp_path / "other.yaml")


def test_whole_numbers_are_good_enough_for_seconds():
    assert parse_protocol(values(seconds_per_item=7), "here").seconds_per_item == 7.0
    assert parse_protocol(values(), "here").scale == Scale()
