"""What a study's data base holds and gives back, as plain records."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Picture:
    """A generated image, under its blinded name."""

    name: str
    method: str
    scene_id: str
    prompt: str
    seed: int
    foreground: str  # blinded name of the composited foreground's file
    width: int
    height: int


@dataclass(frozen=True)
class Task:
    """One item at its place in a person's order. `image` and `image_b` are files' names."""

    id: str
    annotator: str
    position: int  # from 0
    part: int  # which of the person's sets, from 0
    item: str
    image: str
    image_b: str | None = None  # pairwise: of the second method
    swapped: bool = False  # pairwise: the first method stands on the right
    expected: int | None = None  # attention check: the value that every criterion must get
    repeat_of: str | None = None  # the item that is shown a second time


@dataclass(frozen=True)
class Person:
    """An annotator's pseudonym and the SHA-256 of the private link's token."""

    name: str
    token_sha256: str
    opened_at: str | None = None  # UTC, ISO 8601
    consented_at: str | None = None


@dataclass(frozen=True)
class Submission:
    """What a browser sends for one task."""

    id: str  # made by the browser: sending it again changes nothing
    task: str
    answers: dict[str, int]  # by criterion; of a pair as it stands on the screen
    seconds: float  # from seeing the item to sending
    replaces: str | None  # the submission that this one changes; None: the task's first


@dataclass(frozen=True)
class Answer:
    """The last value of a person for an item and criterion: the unit of all statistics.

    (annotator, item, criterion) is a key: a repeat's `item` is an identifier of its own.
    """

    annotator: str
    item: str
    scene_id: str
    foreground: str
    prompt: str
    method: str  # of an attention check: empty
    seed: int
    criterion: str
    value: int  # of a pair: -1 `method` is better, 1 `method_b`, 0 no difference
    seconds: float  # that the item was looked at, all criteria and changes together
    check: bool
    expected: int | None  # of an attention check
    repeat_of: str | None  # the item that was shown before
    position: int  # in the person's order, from 0
    changes: int  # how often it was changed after the first submission
    submitted_at: str  # UTC, ISO 8601
    method_b: str = ""
    image: str = ""
    image_b: str = ""
    swapped: bool = False  # the first method stood on the right


@dataclass(frozen=True)
class Progress:
    """How far a person is."""

    annotator: str
    tasks: int
    answered: int
    opened_at: str | None
    consented_at: str | None
    last_at: str | None  # the newest submission
    median_seconds: float | None  # of an item
    checks: int  # attention checks answered
    failed_checks: int
    changes: int


@dataclass(frozen=True)
class Contents:
    """All that `create` puts into a data base, but for the protocol."""

    methods: tuple[str, ...]
    pictures: list[Picture]
    people: list[Person]
    tasks: list[Task]
    admin_sha256: str
    secret: str = field(repr=False)  # of blinded names and of the random order, hexadecimal
