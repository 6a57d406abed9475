"""Agreement with others, on a published example; agreement with oneself."""

import pandas as pd
import pytest
from simulated import PROTOCOL, simulated_frame

from anyscene.study.agreement import alphas, self_consistency
from anyscene.study.ratings import counted, repeated

# Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, section D: four observers, twelve
# units, some values missing; the ordinal alpha is 0.815.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def ratings(table, criterion="quality"):
    rows = [
        {"annotator": f"a{person}", "item": f"i{unit}", "criterion": criterion, "value": value}
        for person, values in enumerate(table)
        for unit, value in enumerate(values)
        if value is not None
    ]
    return pd.DataFrame(rows)


def test_alpha_is_the_published_one():
    (row,) = alphas(ratings(OBSERVERS)).to_dict("records")
    assert row["alpha"] == pytest.approx(0.815, abs=5e-4)
    assert (row["people"], row["items"]) == (4, 11)  # the twelfth unit has one value


def test_alpha_counts_the_people_who_share_an_item_with_somebody():
    """In an unfinished study some do not."""
    (row,) = alphas(ratings(((1, 2, None), (1, 3, None), (None, None, 2)))).to_dict("records")
    assert (row["people"], row["items"]) == (2, 2)


def test_alpha_of_each_criterion_is_its_own():
    both = pd.concat([ratings(OBSERVERS), ratings(((1, 2, 3), (3, 2, 1)), "harmony")])
    found = alphas(both).set_index("criterion")["alpha"]
    assert found["quality"] == pytest.approx(0.815, abs=5e-4)
    assert found["harmony"] < 0


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (((1, None), (None, 2)), "no item is rated by two people"),
        (((3, 3), (3, 3)), "the ratings do not vary"),
    ],
)
def test_an_alpha_that_cannot_be_says_why(table, reason):
    (row,) = alphas(ratings(table)).to_dict("records")
    assert row["missing"] == reason
    assert pd.isna(row["alpha"])


def twice(first, again):
    """Answers of one person who rates items twice."""
    rows = ratings((first,)).assign(check=False, repeat_of=None)
    more = ratings((again,)).assign(check=False)
    more["repeat_of"], more["item"] = more["item"], "again " + more["item"]
    return pd.concat([rows, more])


def consistency(first, again):
    (row,) = self_consistency(twice(first, again), (1, 2, 3, 4)).to_dict("records")
    return row


def test_consistency_compares_each_item_with_itself():
    same = consistency((1, 2, 3, 4), (1, 2, 3, 4))
    assert (same["exact"], same["mean_difference"], same["kappa"]) == (1, 0, 1)
    row = consistency((1, 2, 3, 4, 4), (1, 3, 3, 2, 4))
    assert row["exact"] == pytest.approx(0.6)
    assert row["mean_difference"] == pytest.approx(0.6)
    assert row["repeats"] == 5


def test_kappa_is_one_less_the_share_of_squared_differences_that_chance_makes():
    """Cohen, Psychological Bulletin 70, 1968, equation 1."""
    first, again = (1, 2, 3, 4, 4, 2), (1, 3, 3, 2, 4, 1)
    found = sum((a - b) ** 2 for a, b in zip(first, again, strict=True)) / 6
    chance = sum((a - b) ** 2 for a in first for b in again) / 36
    assert consistency(first, again)["kappa"] == pytest.approx(1 - found / chance)


def test_kappa_without_variation_says_why():
    row = consistency((3, 3), (3, 3))
    assert pd.isna(row["kappa"])
    assert row["missing"] == "the ratings do not vary"
    assert row["exact"] == 1


def test_simulated_people_agree_more_with_themselves_than_with_others():
    frame = simulated_frame()
    pairs = repeated(frame)
    assert len(pairs) == PROTOCOL.annotators * PROTOCOL.repeats * len(PROTOCOL.criteria)
    own = self_consistency(frame, PROTOCOL.values).set_index("criterion")["kappa"]
    others = alphas(counted(frame)).set_index("criterion")["alpha"]
    assert (own > others).all()
