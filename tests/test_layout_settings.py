"""Layout control in words: what is parsed, checked, recorded and read back."""

import pytest

from anyscene.errors import InputError
from anyscene.layout_settings import (
    MECHANISMS,
    LayoutControl,
    acts,
    layout_mistake,
    layout_of,
    layout_record,
    parse_layout,
)


def test_layout_is_off_by_default():
    assert LayoutControl().active() == []
    assert layout_record(LayoutControl(attention_end=0.9)) is None
    assert layout_of(None) == LayoutControl()


def test_layout_words_change_the_default_and_off_forgets_it():
    default = LayoutControl(attention=2, known_latent=1)
    changed = parse_layout(["attention=4", "attention_end=0.5"], default)
    assert changed == LayoutControl(attention=4, attention_end=0.5, known_latent=1)
    assert parse_layout([], default) == default
    assert parse_layout(["off", "residual_gate=1"], default) == LayoutControl(residual_gate=1)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["atention=4"], "--layout 'atention=4': no such name; did you mean 'attention'"),
        (["attention=much"], "'much' is no number, such as attention=4"),
        (["attention"], "--layout 'attention': must be NAME=NUMBER, such as attention=4"),
        (["attention=51"], "layout: attention=51 must be between 0 (off) and 50"),
        (["attention=nan"], "layout: attention=nan must be between 0 (off) and 50"),
        (["residual_gate=1.5"], "layout: residual_gate=1.5 must be between 0 (off) and 1"),
        (["known_latent_end=2"], "known_latent_end=2 must be between 0 and 1, a share of the"),
        (
            ["known_latent=1", "known_latent_start=0.9"],
            "layout: known_latent_end=0.8 must be greater than known_latent_start=0.9",
        ),
    ],
)
def test_layout_mistakes_are_named(words, line):
    with pytest.raises(InputError) as caught:
        parse_layout(words, LayoutControl())
    assert line in str(caught.value)


def test_layout_record_reads_back_what_acts():
    layout = LayoutControl(attention=3, attention_end=0.7, known_latent=0.5)
    record = layout_record(layout)
    assert record is not None
    assert sorted({key.split("_")[0] for key in record}) == ["attention", "known"]
    assert layout_of(record) == layout
    with pytest.raises(InputError, match="another version"):
        layout_of({"known_latent": 0.9})  # once the share of the steps


@pytest.mark.parametrize(
    ("span", "total", "expected"),
    [((0, 1), 3, [0, 1, 2]), ((0, 0.4), 8, [0, 1, 2]), ((0.25, 0.75), 4, [1, 2]), ((0, 0), 4, [])],
)
def test_layout_span_counts_steps_that_lie_wholly_in_it(span, total, expected):
    assert [step for step in range(total) if acts(span, step, total)] == expected


def test_every_mechanism_has_a_strength_and_a_span():
    for name in MECHANISMS:
        layout = LayoutControl(**{name: 1.0})
        assert layout.active() == [name]
        assert layout.span(name)[0] < layout.span(name)[1]
        assert layout_mistake(layout) is None
