"""How small a difference a study can find: simulated before anyone is asked."""

import math

import numpy as np

from anyscene.study.model import Codes, Floats, cell_sums, crossed_interval
from anyscene.study.protocol import Protocol
from anyscene.study.simulate import Design, Spread, latent_means, simulate_values

POWER = 0.8
LEVEL = 0.95
STUDIES = 240
DESIGNS = 4  # random orders among the studies


def detectable_difference(protocol: Protocol, methods: int, seed: int) -> float:
    """The difference of two methods' true means that 80 % of such studies find.

    In points of the scale; of a pairwise study, in the share of preferences beyond one half. NaN
    if the study is too small for intervals. Found: zero is outside the interval of the
    difference at 95 %, with Bonferroni's correction for all pairs of methods, the strictest step of
    Holm's. Assumed: the `Spread` of opinions, whose values are guesses; means near the middle
    of the scale; that everybody answers everything and nobody is excluded.
    """
    rng = np.random.default_rng(seed)
    spread, scale = Spread(), protocol.scale
    latent = latent_means(2 * [(scale.low + scale.high) / 2], spread, scale)
    designs = [Design.of_protocol(protocol, 2, rng) for _ in range(DESIGNS)]
    level = 1 - (1 - LEVEL) / math.comb(methods, 2)
    needed = []
    for study in range(STUDIES):
        design = designs[study % DESIGNS]
        values = simulate_values(design, latent, spread, protocol, rng)
        found = crossed_interval(*_difference(design, values), level)
        needed += [found.high, -found.low]  # equal methods: the error may as well be negative
    return float(np.quantile(needed, POWER))


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
