"""What a study's report says about its numbers in words."""

import pandas as pd

from anyscene.study.analysis import Results
from anyscene.study.protocol import Protocol
from anyscene.study.ratings import counted
from anyscene.study.records import Progress

READING_MEAN = (
    "Mean",
    "The plain mean of all ratings of a method's images. Attention checks and second ratings of "
    "the same item do not count.",
)
READING_STRENGTH = (
    "Strength",
    "Of the model of Bradley and Terry: the logarithm of the odds with which a method is "
    "preferred to one of average strength. Ties count as half a choice each. Attention checks and "
    "second choices of the same item do not count.",
)
READING_INTERVAL = (
    "95 % interval",
    "Where the number would lie with other people and other foregrounds: a model with crossed "
    "random effects of people and foregrounds. In 95 % of studies like this one the interval "
    "holds the true value, if the people and foregrounds are random draws from those "
    "that one wants to speak about. It does not say how single ratings scatter.",
)
READING_PROMPTS = (
    "Prompts",
    "Several foregrounds have the same prompts. These are taken as they are: the intervals do not "
    "count that other prompts might have been chosen.",
)
READING_OVERLAP = (
    "Overlap",
    "Methods whose intervals overlap can differ all the same, for the same people rate both: look "
    "at the differences.",
)
READING_P = (
    "p",
    "How often a difference as clear as this one comes about by chance when methods are equal: "
    "their labels are swapped at random for whole people, and again for whole foregrounds, and the "
    "larger p counts.",
)
READING_ALPHA = (
    "Alpha",
    "Krippendorff's, ordinal: 1 if all who rate an item agree, 0 if they agree as by chance. Where "
    "taste differs it is low; the intervals count this.",
)
READING_AGAIN = (
    "Rated twice",
    "How often a person gave an item the same value again, by how many points it changed, and "
    "Cohen's kappa with quadratic weights: the agreement beyond that of chance.",
)


def reading(protocol: Protocol, frame: pd.DataFrame) -> list[tuple[str, str]]:
    """How to read the numbers: terms and explanations."""
    pairs = counted(frame)[["prompt", "scene_id"]].drop_duplicates()
    return [
        READING_MEAN if protocol.kind == "rating" else READING_STRENGTH,
        READING_INTERVAL,
        *([READING_PROMPTS] if len(pairs) > len(set(pairs["prompt"])) else []),
        READING_OVERLAP,
        READING_P,
        READING_ALPHA,
        READING_AGAIN,
    ]


def warnings(progress: list[Progress]) -> list[str]:
    """What stands before the numbers."""
    tasks = sum(own.tasks for own in progress)
    missing = tasks - sum(own.answered for own in progress)
    if not missing:
        return []
    return [f"Preliminary: {missing:,} of {tasks:,} items are not answered yet."]


def exclusion(protocol: Protocol, results: Results) -> str:
    """The rules, and what came of them."""
    rules = protocol.exclusion
    fails = (
        f"fails more than {rules.max_failed_checks} of {protocol.attention_checks} attention "
        "checks, or "
        if protocol.attention_checks
        else ""
    )
    text = (
        f"Fixed before the first answer: excluded is who {fails}takes less than "
        f"{rules.min_median_seconds:g} s an item (median)."
    )
    count = sum(reason != "" for reason in results.people["excluded"])
    if not count:
        return f"{text} Nobody is excluded, so that there is one analysis only."
    if results.kept is None:
        return f"{text} Everybody is excluded, so that there is no second analysis."
    people = f"{count} of {len(results.people)} people {'is' if count == 1 else 'are'} excluded"
    return f"{text} {people}; every number is given with and without them."
