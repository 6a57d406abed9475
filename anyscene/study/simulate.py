"""Simulated raters: a latent opinion of known mean, with bias, taste and noise, in whole numbers.

The spreads are assumed, not measured. They serve tests, the demo and the power of a study.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import optimize, stats

from anyscene.study.assignment import assign
from anyscene.study.model import Codes, Floats
from anyscene.study.plan import Plan
from anyscene.study.protocol import Protocol, Scale
from anyscene.study.records import Answer, Picture, Task
from anyscene.study.sources import Cell

Truth = Mapping[str, Mapping[str, float]]
"""Mean rating by criterion and method, over all people and images that there could be."""

NO_DIFFERENCE = 0.3  # points; images that differ less are called equal, where that is an answer
SECONDS = 7.0  # median of an item
SECONDS_SPREAD = 0.4  # of the logarithm of an item's time
CARELESS_SECONDS = 0.9  # median of people who press any key
START = datetime(2000, 1, 3, 9, tzinfo=UTC)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the parts of an opinion, in points of the scale before rounding."""

    person: float = 0.30
    """How lenient people are."""
    person_method: float = 0.20
    """How people differ in what they think of a method."""
    foreground: float = 0.20
    """How hard foregrounds are."""
    foreground_method: float = 0.25
    """How foregrounds suit a method."""
    scene: float = 0.15
    """As the two above, of a foreground with a prompt."""
    scene_method: float = 0.20
    image: float = 0.30
    """How images of a method and scene differ."""
    taste: float = 0.45
    """What a person thinks of an image, and would again."""
    noise: float = 0.45
    """What changes from one time to the next."""

    @property
    def total(self) -> float:
        """Of single ratings, of all people and images."""
        return float(np.linalg.norm(astuple(self)))


@dataclass(frozen=True)
class Raters:
    """All that simulated people bring to a study."""

    truth: Truth
    """Of each criterion the same methods."""
    seed: int
    """Of opinions, times and order."""
    careless: tuple[str, ...] = ()
    """Pseudonyms, such as `a02`, of people who press any key, fast, at attention checks too."""
    spread: Spread = field(default_factory=Spread)


@dataclass(frozen=True)
class Design:
    """Who sees which images: codes from 0, sides x items. A pair of images has two sides."""

    person: Codes
    method: Codes
    foreground: Codes
    scene: Codes
    image: Codes

    @classmethod
    def of_protocol(cls, protocol: Protocol, methods: int, rng: Generator) -> "Design":
        """What a study asks, without checks and repeats, dealt as `create` deals it."""
        protocol = replace(protocol, attention_checks=0, repeats=0)
        sides = 1 if protocol.kind == "rating" else 2
        treatments = np.array(list(combinations(range(methods), sides)))
        shown = [
            (person, showing.cell, showing.treatment)
            for person, order in enumerate(assign(protocol, len(treatments), rng))
            for showing in order
        ]
        person, cell, treatment = (np.tile(column, (sides, 1)) for column in np.transpose(shown))
        method = treatments[treatment[0]].T
        scene = cell // protocol.images_per_prompt
        return cls(person, method, scene // protocol.prompts, scene, cell * methods + method)

    @classmethod
    def of_tasks(cls, tasks: Sequence[Task], pictures: Mapping[str, Picture]) -> "Design":
        """What tasks show; a repeat shows what its item does."""
        names = [[task.image for task in tasks]]
        if tasks[0].image_b is not None:
            names.append([task.image_b or "" for task in tasks])
        shown = [[pictures[name] for name in side] for side in names]
        columns = (
            [[task.annotator for task in tasks] for _ in names],
            [[picture.method for picture in side] for side in shown],
            [[picture.scene_id for picture in side] for side in shown],
            [[f"{picture.scene_id}\n{picture.prompt}" for picture in side] for side in shown],
            names,
        )
        return cls(*(np.unique(labels, return_inverse=True)[1] for labels in columns))


def latent_means(means: Sequence[float], spread: Spread, scale: Scale) -> Floats:
    """Means of opinions, before rounding to the scale and clipping, that give these mean ratings.

    The mean of a whole number is the sum of the chances to exceed the steps below it.
    """
    steps = np.arange(scale.low, scale.high) + 0.5

    def excess(latent: float, mean: float) -> float:
        return scale.low + stats.norm.sf((steps - latent) / spread.total).sum() - mean

    ends = scale.low - 20 * spread.total, scale.high + 20 * spread.total
    return np.array([optimize.brentq(excess, *ends, args=(mean,)) for mean in means])


def opinions(design: Design, latent: Floats, spread: Spread, rng: Generator) -> Floats:
    """Sides x items. `latent`: the mean of each method."""

    def effect(deviation: float, *codes: Codes) -> Floats:
        sizes = [int(code.max()) + 1 for code in codes]
        combined = np.ravel_multi_index(codes, sizes)
        return rng.normal(0, deviation, int(np.prod(sizes)))[combined]

    person, method, image = design.person, design.method, design.image
    return (
        latent[method]
        + effect(spread.person, person)
        + effect(spread.person_method, person, method)
        + effect(spread.foreground, design.foreground)
        + effect(spread.foreground_method, design.foreground, method)
        + effect(spread.scene, design.scene)
        + effect(spread.scene_method, design.scene, method)
        + effect(spread.image, image)
        + effect(spread.taste, person, image)
        + rng.normal(0, spread.noise, person.shape)
    )


def simulate_values(
    design: Design, latent: Floats, spread: Spread, protocol: Protocol, rng: Generator
) -> NDArray[np.int64]:
    """One value an item: a rating, or -1, 0, 1 where the first, none, the second is better."""
    found = opinions(design, latent, spread, rng)
    if protocol.kind == "rating":
        scale = protocol.scale
        return np.rint(found[0]).clip(scale.low, scale.high).astype(np.int64)
    difference = found[1] - found[0]
    unclear = (abs(difference) < NO_DIFFERENCE) & protocol.ties
    return np.where(unclear, 0, np.where(difference > 0, 1, -1))


def simulate_submissions(
    tasks: Sequence[Task], pictures: Mapping[str, Picture], protocol: Protocol, raters: Raters
) -> list[tuple[dict[str, int], float]]:
    """For each task its values by criterion, of a pair as the methods stand, and its seconds."""
    rng = np.random.default_rng(raters.seed)
    rated = [task for task in tasks if task.expected is None]
    design = Design.of_tasks(rated, pictures)
    methods = sorted({picture.method for picture in pictures.values() if picture.method})
    columns = {}
    for criterion, means in raters.truth.items():
        wanted = [means[method] for method in methods]
        latent = latent_means(wanted, raters.spread, protocol.scale)
        values = simulate_values(design, latent, raters.spread, protocol, rng)
        columns[criterion] = dict(zip((task.id for task in rated), values.tolist(), strict=True))
    given = []
    for task in tasks:
        careless = task.annotator in raters.careless
        if careless:
            answers = {name: int(rng.choice(protocol.values)) for name in columns}
        elif task.expected is not None:
            answers = dict.fromkeys(columns, task.expected)
        else:
            answers = {name: values[task.id] for name, values in columns.items()}
        typical = CARELESS_SECONDS if careless else SECONDS
        given.append((answers, round(typical * np.exp(rng.normal(0, SECONDS_SPREAD)), 2)))
    return given


def simulate_answers(protocol: Protocol, raters: Raters) -> list[Answer]:
    """A whole study as `Store.answers` gives it, without images or a data base.

    The criteria of the protocol are those of the raters' truth.
    """
    methods = tuple(next(iter(raters.truth.values())))
    tasks, pictures = imageless_study(protocol, methods, raters.seed)
    given = simulate_submissions(tasks, pictures, protocol, raters)
    return [
        _answer(task, pictures, criterion, value, seconds)
        for task, (answers, seconds) in zip(tasks, given, strict=True)
        for criterion, value in answers.items()
    ]


def imageless_study(
    protocol: Protocol, methods: tuple[str, ...], seed: int
) -> tuple[list[Task], dict[str, Picture]]:
    """Everybody's tasks as `create` deals them, and pictures that have names but no files."""
    cells = [
        Cell(f"scene{foreground:02d}", f"prompt {prompt}", number, images=())
        for foreground in range(protocol.foregrounds)
        for prompt in range(protocol.prompts)
        for number in range(protocol.images_per_prompt)
    ]
    plan = Plan(protocol, methods, cells, secret=seed.to_bytes(8))
    shown = {plan.check_name(check): ("", cells[0]) for check in range(protocol.attention_checks)}
    for number, cell in enumerate(cells):
        shown |= {plan.image_name(number, i): (own, cell) for i, own in enumerate(methods)}
    pictures = {
        name: Picture(name, method, cell.scene_id, cell.prompt, cell.number, cell.scene_id, 1, 1)
        for name, (method, cell) in shown.items()
    }
    return plan.tasks(), pictures


def _answer(
    task: Task, pictures: Mapping[str, Picture], criterion: str, value: int, seconds: float
) -> Answer:
    first, second = pictures[task.image], pictures.get(task.image_b or "")
    return Answer(
        annotator=task.annotator,
        item=task.item,
        scene_id=first.scene_id,
        foreground=first.foreground,
        prompt=first.prompt,
        method=first.method,
        seed=first.seed,
        criterion=criterion,
        value=value,
        seconds=seconds,
        check=task.expected is not None,
        expected=task.expected,
        repeat_of=task.repeat_of,
        position=task.position,
        changes=0,
        submitted_at=(START + timedelta(seconds=SECONDS * task.position)).isoformat(),
        method_b=second.method if second else "",
        image=first.name,
        image_b=second.name if second else "",
        swapped=task.swapped,
    )
