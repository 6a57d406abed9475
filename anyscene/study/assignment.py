"""Who sees what, when: a balanced design as a pure function of counts and a random generator.

A *cell* is a foreground with a prompt and the number of an image; a *treatment* is what differs
within a cell: the method (rating), or the pair of methods (pairwise).

- Cells are dealt at random into sets of equal size (to within one cell). A set holds a cell with
  all its treatments, so that methods are compared on the same foregrounds by the same people.
- Each set is rated by the wanted number of people; people rate equally many sets (to within one).
- A person's sets come in random order, and so do the cells in a set. The order of treatments comes
  from Latin squares: each block of as many items as there are treatments shows each one once; over
  as many blocks, each one stands once at each place of a block; and at each position as many
  people see one treatment as another (to within one).
- The treatments of a cell stand as far apart as their set allows.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from anyscene.errors import ConfigError
from anyscene.study.protocol import Protocol

REPEATS_FROM = 5 / 8
"""Share of a person's items after which the first ones, from the first half, come again."""


@dataclass(frozen=True)
class Showing:
    """One item in a person's order."""

    part: int  # which of the person's sets, from 0
    cell: int = -1  # -1: an attention check
    treatment: int = -1
    swapped: bool = False  # pairwise: the first method stands on the right
    repeat: bool = False  # was shown before
    check: int | None = None  # number of the attention check


def assign(protocol: Protocol, treatments: int, rng: Generator) -> list[list[Showing]]:
    """The order of everything that each person sees.

    Raises:
        ConfigError: more repeats than half of a person's items.
    """
    sets = deal_cells(protocol.cells, protocol.sets, rng)
    squares = [
        _latin_square(treatments, rng) for _ in range(-(-protocol.cells // treatments))
    ]  # shared by all people, who begin in different rows
    sides = rng.integers(2, size=(protocol.cells, treatments))
    jitter = rng.uniform(-0.3, 0.3, protocol.attention_checks)
    people = share_sets(protocol.sets, protocol.annotators, protocol.ratings_per_image, rng)
    orders = []
    for person, own in enumerate(people):
        order = _blocks([sets[number] for number in own], squares, person, rng)
        if protocol.kind == "pairwise":
            order = _on_sides(order, sides, person)
        again = _repeats(order, protocol, treatments, person, rng)
        orders.append(_with_extras(order, again, jitter))
    return orders


def deal_cells(cells: int, sets: int, rng: Generator) -> list[list[int]]:
    """All cells in random order, cut into sets whose sizes differ by one at most."""
    return [part.tolist() for part in np.array_split(rng.permutation(cells), sets)]


def share_sets(sets: int, people: int, ratings: int, rng: Generator) -> list[list[int]]:
    """For each person, in random order, the sets to rate; `ratings` people share a set.

    Those with the fewest sets come first and, among them, those who shared the fewest sets with
    the ones chosen already: so everyone is compared with many others.
    """
    load = np.zeros(people, int)
    shared = np.zeros((people, people), int)
    own: list[list[int]] = [[] for _ in range(people)]
    for number in rng.permutation(sets).tolist():
        chosen: list[int] = []
        for _ in range(ratings):
            met = shared[:, chosen].sum(1)
            free = [person for person in rng.permutation(people) if person not in chosen]
            chosen.append(min(free, key=lambda person: (load[person], met[person])))
            load[chosen[-1]] += 1
        shared[np.ix_(chosen, chosen)] += 1
        for person in chosen:
            own[person].append(number)
    return [rng.permutation(numbers).tolist() for numbers in own]


def _latin_square(size: int, rng: Generator) -> np.ndarray:
    """Rows and columns with each of 0 .. size-1 once: size size."""
    cyclic = (np.arange(size)[:, None] + np.arange(size)) % size
    return rng.permutation(size)[cyclic[rng.permutation(size)]]


def _blocks(
    sets: list[list[int]], squares: list[np.ndarray], person: int, rng: Generator
) -> list[Showing]:
    """A person's items block by block, before repeats and checks."""
    treatments = len(squares[0])
    order: list[Showing] = []
    for part, cells in enumerate(sets):
        shuffled = rng.permutation(cells).tolist()
        shift = rng.permutation(treatments) * len(cells) // treatments
        for place in range(len(cells)):
            block = len(order) // treatments
            square = squares[block // treatments]
            for treatment in square[(block + person) % treatments].tolist():
                cell = shuffled[(place + shift[treatment]) % len(cells)]
                order.append(Showing(part, cell, treatment))
    return order


def _on_sides(order: list[Showing], sides: np.ndarray, person: int) -> list[Showing]:
    """Each pair of methods in both ways round: equally often for a person, and over people."""
    seen = np.zeros(sides.shape[1], int)
    turned = []
    for showing in order:
        count = seen[showing.treatment]
        side = sides[count // 2, showing.treatment] + count + person
        turned.append(replace(showing, swapped=bool(side % 2)))
        seen[showing.treatment] += 1
    return turned


def _repeats(
    order: list[Showing], protocol: Protocol, treatments: int, person: int, rng: Generator
) -> list[Showing]:
    """Items of the first half, of each treatment equally many; a pair comes the other way round."""
    pool = [order[place] for place in rng.permutation(max(1, len(order) // 2))]
    if protocol.repeats > len(pool):
        raise ConfigError(
            f"repeats={protocol.repeats} is more than half of a person's {len(order)} items; "
            f"use at most {len(pool)}"
        )
    chosen = []
    for number in range(protocol.repeats):
        wanted = (number + person) % treatments
        found = next((one for one in pool if one.treatment == wanted), pool[0])
        pool.remove(found)
        swapped = protocol.kind == "pairwise" and not found.swapped
        chosen.append(replace(found, repeat=True, swapped=swapped))
    return chosen


def _with_extras(order: list[Showing], again: list[Showing], jitter: np.ndarray) -> list[Showing]:
    """The order with repeats in its last part, and attention checks all over it."""
    extras: list[tuple[float, Showing]] = []  # after how many items
    for number, showing in enumerate(again, start=1):
        share = REPEATS_FROM + (1 - REPEATS_FROM) * number / len(again)
        extras.append((share * len(order), showing))
    for number, shift in enumerate(jitter.tolist()):
        place = (number + 0.5 + shift) / len(jitter) * len(order)
        extras.append((place, Showing(0, check=number)))
    full = list(order)
    for place, showing in sorted(extras, key=lambda extra: extra[0], reverse=True):
        after = max(1, round(place))
        full.insert(after, replace(showing, part=order[after - 1].part))
    return full
