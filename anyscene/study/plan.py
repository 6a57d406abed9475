"""The design of a study before anything is written: who sees what, under which random names."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import ceil, isfinite, isnan, log2

import numpy as np

from anyscene.study.assignment import Showing, assign
from anyscene.study.images import blinded_name
from anyscene.study.protocol import Protocol
from anyscene.study.records import Task
from anyscene.study.sources import Cell

SECRET_BYTES = 32


@dataclass(frozen=True)
class Plan:
    """A study that can be made. A function of its fields: the same secret gives the same study."""

    protocol: Protocol
    methods: tuple[str, ...]
    cells: list[Cell]
    secret: bytes

    @cached_property
    def treatments(self) -> list[tuple[int, ...]]:
        """The methods that differ within a cell: one each (rating), or two (pairwise)."""
        size = 1 if self.protocol.kind == "rating" else 2
        return list(combinations(range(len(self.methods)), size))

    @cached_property
    def orders(self) -> list[list[Showing]]:
        """What each person sees. Raises ConfigError for more repeats than fit."""
        entropy = int(self.name("order", self.protocol.seed), 16)
        return assign(self.protocol, len(self.treatments), np.random.default_rng(entropy))

    @property
    def annotators(self) -> list[str]:
        """Pseudonyms of the people, in the order of `orders`."""
        digits = max(2, len(str(self.protocol.annotators)))
        return [f"a{number:0{digits}}" for number in range(1, self.protocol.annotators + 1)]

    def name(self, *what: str | int) -> str:
        """The blinded name of something."""
        return blinded_name(self.secret, *what)

    def image_name(self, cell: int, method: int) -> str:
        """The blinded name of a generated image."""
        return self.name("image", cell, self.methods[method])

    def check_name(self, check: int) -> str:
        """The blinded name of an attention check's image."""
        return self.name("check", check)

    def expected(self, check: int) -> int:
        """The value that an attention check asks for, each one equally often; never a tie."""
        values = [
            value for value in self.protocol.values if value or self.protocol.kind == "rating"
        ]
        turned = sorted(values, key=lambda value: self.name("expected", value))
        return turned[check % len(turned)]

    def tasks(self) -> list[Task]:
        """Everybody's items, in order."""
        return [
            self._task(person, position, showing)
            for person, order in zip(self.annotators, self.orders, strict=True)
            for position, showing in enumerate(order)
        ]

    def _task(self, person: str, position: int, showing: Showing) -> Task:
        identifier = self.name("task", person, position)
        place = identifier, person, position, showing.part
        if showing.check is not None:
            image = self.check_name(showing.check)
            expected = self.expected(showing.check)
            second = image if self.protocol.kind == "pairwise" else None
            return Task(*place, item=identifier, image=image, image_b=second, expected=expected)
        methods = self.treatments[showing.treatment]
        images = [self.image_name(showing.cell, method) for method in methods]
        item = images[0] if len(images) == 1 else self.name("pair", showing.cell, *methods)
        return Task(
            *place,
            item=identifier if showing.repeat else item,
            image=images[0],
            image_b=images[1] if len(images) > 1 else None,
            swapped=showing.swapped,
            repeat_of=item if showing.repeat else None,
        )


def plan_study(protocol: Protocol, methods: tuple[str, ...], cells: list[Cell]) -> Plan:
    """A plan with a new secret."""
    return Plan(protocol, methods, cells, secrets.token_bytes(SECRET_BYTES))


def describe(plan: Plan) -> str:
    """What the study asks of people and what it can find, in a few lines."""
    protocol = plan.protocol
    images, items = len(plan.cells) * len(plan.methods), protocol.items(len(plan.methods))
    counts = [len(order) for order in plan.orders]
    minutes = [count * protocol.seconds_per_item / 60 for count in counts]
    lines = (
        f"{protocol.kind} study {protocol.name!r}: {', '.join(plan.methods)}",
        f"{images:,} images; {items:,} items, each for {protocol.ratings_per_image} of "
        f"{protocol.annotators} people",
        f"{sum(counts) * len(protocol.criteria):,} answers to {len(protocol.criteria)} criteria, "
        f"with {protocol.attention_checks} checks and {protocol.repeats} repeats a person",
        f"{_span(counts, 'd')} items a person: {_span(minutes, '.0f')} minutes at "
        f"{protocol.seconds_per_item:g} s an item, {sum(minutes) / 60:.1f} hours in all",
        _power(protocol, len(plan.methods)),
    )
    return "\n".join(lines)


def _power(protocol: Protocol, methods: int) -> str:
    """What the study can find, or why nothing."""
    from anyscene.study.power import SIGNIFICANT, detectable_difference, least_corrected_p

    difference = detectable_difference(protocol, methods, protocol.seed)
    if isfinite(difference):
        unit = "points of the scale" if protocol.kind == "rating" else "in the share of preferences"
        return (
            f"a difference of {difference:.2f} {unit} between two methods is found in 80 % of such "
            "studies (simulated, with assumed spreads of opinion)"
        )
    if isnan(difference):
        return "too small a study for intervals: ask more people, about more foregrounds"
    least = least_corrected_p(protocol, methods)
    if least <= SIGNIFICANT:
        return "too small a study: no difference of two methods is found in 80 % of such studies"
    needed = ceil(log2(least / SIGNIFICANT)) + min(protocol.annotators, protocol.foregrounds)
    return (
        f"too small a study to find a difference of two methods: no corrected p can be below "
        f"{min(least, 1):.2g}; have at least {needed} people and {needed} foregrounds"
    )


def _span(values: Sequence[float], form: str) -> str:
    ends = dict.fromkeys(format(value, form) for value in (min(values), max(values)))
    return " to ".join(ends)
