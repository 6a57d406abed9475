"""Studies of simulated raters for tests: with a known truth, and without images."""

from hashlib import sha256
from pathlib import Path

import pandas as pd

from anyscene.study.protocol import Criterion, Exclusion, Protocol
from anyscene.study.ratings import ratings_frame
from anyscene.study.records import Contents, Person
from anyscene.study.simulate import Raters, Truth, imageless_study, simulate_answers
from anyscene.study.store import Store

# The true means of synthetic studies: those that the paper's Table 1 has.
TRUTH: Truth = {
    "quality": {"dreambooth": 2.23, "custom": 2.31, "inpaint": 2.80, "anyscene": 3.26},
    "harmony": {"dreambooth": 2.59, "custom": 2.48, "inpaint": 2.41, "anyscene": 2.92},
    "fidelity": {"dreambooth": 1.61, "custom": 1.39, "inpaint": 3.11, "anyscene": 3.45},
}
METHODS = tuple(TRUTH["quality"])

PROTOCOL = Protocol(
    name="simulated",
    title="A <simulated> study",
    criteria=tuple(Criterion(name, name.title(), f"How is the {name}?") for name in TRUTH),
    foregrounds=12,
    prompts=2,
    images_per_prompt=1,
    sets=4,
    annotators=8,
    ratings_per_image=4,
    consent="",
    instructions="",
    attention_checks=3,
    repeats=4,
    exclusion=Exclusion(max_failed_checks=1, min_median_seconds=2.0),
)


def simulated_frame(protocol: Protocol = PROTOCOL, raters: Raters | None = None) -> pd.DataFrame:
    """The answers of a whole study."""
    return ratings_frame(simulate_answers(protocol, raters or Raters(TRUTH, seed=1)), METHODS)


def imageless_folder(folder: Path, protocol: Protocol, methods: tuple[str, ...], seed: int) -> Path:
    """A study folder with everything but images and answers."""
    tasks, pictures = imageless_study(protocol, methods, seed)
    names = dict.fromkeys(task.annotator for task in tasks)
    people = [Person(name, sha256(name.encode()).hexdigest()) for name in names]
    contents = Contents(methods, list(pictures.values()), people, tasks, "0" * 64, "")
    folder.mkdir()
    Store.create(folder, protocol, contents).close()
    return folder
