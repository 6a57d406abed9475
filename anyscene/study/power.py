"""How small a difference a study can find: simulated before anyone is asked."""

import math

import numpy as np

from anyscene.study.model import Codes, Floats, cell_sums, crossed_interval, least_p, swap_p_value
from anyscene.study.protocol import Protocol
from anyscene.study.simulate import Design, Spread, latent_means, simulate_values

POWER = 0.8
SIGNIFICANT = 0.05
STUDIES = 120
DESIGNS = 4  # random orders among the studies
SWAPS = 1024  # of labels at least; all of ten people's
HALVINGS = 7


def detectable_difference(protocol: Protocol, methods: int, seed: int) -> float:
    """The difference of two methods' true means that 80 % of such studies find.

    In points of the scale; of a pairwise study, in the share of preferences beyond one half. NaN
    if the study is too small for intervals, infinite if not even the largest difference is found
    so often. Found: the report's p is at most 5 %, with Bonferroni's correction for all pairs of
    methods, the strictest step of Holm's. Assumed: the `Spread` of opinions, whose values are
    guesses; means near the middle of the scale; that everybody answers everything and nobody is
    excluded.
    """
    rng = np.random.default_rng(seed)
    studies = _equal_methods(protocol, rng)
    comparisons = math.comb(methods, 2)
    intervals = [crossed_interval(*own, 1 - SIGNIFICANT / comparisons) for own in studies]
    if any(interval.missing for interval in intervals):
        return math.nan
    if least_corrected_p(protocol, methods) > SIGNIFICANT:
        return math.inf
    swaps = max(SWAPS, 50 * comparisons)  # so that a corrected p can be small
    found = np.full(STUDIES, np.inf)  # smallest difference that each study is known to find
    missed = np.zeros(STUDIES)  # largest one that it is known to miss

    def power(difference: float) -> float:
        for number in np.flatnonzero((missed < difference) & (difference < found)):
            value, contributions = studies[number]
            p, _ = swap_p_value(value + difference, contributions, rng, swaps)
            (found if p * comparisons <= SIGNIFICANT else missed)[number] = difference
        return float((found <= difference).mean())

    rating = protocol.kind == "rating"
    largest = protocol.scale.high - protocol.scale.low if rating else 0.5
    low = 0.0
    high = min(largest, float(np.median([own.high - own.value for own in intervals])))
    while power(high) < POWER:
        if high >= largest:
            return math.inf
        low, high = high, min(2 * high, largest)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def least_corrected_p(protocol: Protocol, methods: int) -> float:
    """The smallest p there can be, after Bonferroni's correction for all pairs of methods."""
    return least_p(protocol.annotators, protocol.foregrounds) * math.comb(methods, 2)


def _equal_methods(protocol: Protocol, rng: np.random.Generator) -> list[tuple[float, Floats]]:
    """Of studies of two equal methods: the difference found, and what each cell adds to it."""
    spread, scale = Spread(), protocol.scale
    latent = latent_means(2 * [(scale.low + scale.high) / 2], spread, scale)
    designs = [Design.of_protocol(protocol, 2, rng) for _ in range(DESIGNS)]
    found = []
    for study in range(STUDIES):
        design = designs[study % DESIGNS]
        found.append(_difference(design, simulate_values(design, latent, spread, protocol, rng)))
    return found


def _difference(design: Design, values: Codes) -> tuple[float, Floats]:
    """By how much the second of two methods is better, and what each cell adds to its deviation."""
    person, foreground = design.person[0], design.foreground[0]
    if len(design.method) == 2:  # pairs: the share of preferences beyond one half
        shares = values / 2
        return shares.mean(), cell_sums(person, foreground, (shares - shares.mean()) / len(shares))
    second = design.method[0] == 1
    means = np.where(second, values[second].mean(), values[~second].mean())
    weights = np.where(second, 1 / second.sum(), -1 / (~second).sum())
    return (weights * values).sum(), cell_sums(person, foreground, weights * (values - means))
