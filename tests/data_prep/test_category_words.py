"""Which captions name which categories."""

import pytest

from data_prep.category_words import names


@pytest.mark.parametrize(
    ("category", "caption"),
    [
        ("dog", "A Dog, asleep"),
        ("dog", "two dogs."),
        ("bus", "Buses in a row"),
        ("bench", "park benches"),
        ("cell phone", "a row of cell phones"),
        ("person", "three women laugh"),
        ("couch", "an old sofa"),
        ("tv", "a flat-screen on the wall"),
        ("butterfly", "butterflies"),
        ("Dog", "a dog"),
    ],
)
def test_a_caption_names_a_category(category: str, caption: str) -> None:
    assert names(category, caption)


@pytest.mark.parametrize(
    ("category", "caption"),
    [
        ("cat", "a category of its own"),
        ("car", "a scarf and a carpet"),
        ("cell phone", "a cell in a prison"),
        ("dog", "a dogged fight"),
        ("person", "an empty street"),
        ("bus", ""),
    ],
)
def test_a_caption_does_not_name_a_category(category: str, caption: str) -> None:
    assert not names(category, caption)
