"""How often intervals hold the truth, over many synthetic studies.

    PYTHONPATH=. python tests/study/coverage_studies.py --studies 500

prints it for the shipped protocol of the paper, beside a two-way bootstrap and normal quantiles.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from simulated import METHODS, TRUTH

from anyscene.study.protocol import Protocol, read_protocol
from anyscene.study.ratings import ratings_frame
from anyscene.study.simulate import (
    Design,
    Raters,
    Spread,
    imageless_study,
    latent_means,
    simulate_answers,
    simulate_values,
)
from anyscene.study.statistics import by_criterion, figures, method_means

ORDERS = 5  # of the items, among the studies
COLUMNS = ["annotator", "scene_id", "method", "criterion", "value", "image", "image_b"]


def studies(protocol: Protocol, count: int, seed: int, spread: Spread) -> Iterator[pd.DataFrame]:
    """The ratings of so many studies, without checks and repeats."""
    protocol = replace(protocol, attention_checks=0, repeats=0)
    rng = np.random.default_rng(seed)
    order = sorted(METHODS)
    latent = [
        latent_means([own[m] for m in order], spread, protocol.scale) for own in TRUTH.values()
    ]
    asked = []
    for number in range(ORDERS):
        tasks, pictures = imageless_study(protocol, METHODS, seed + number)
        frame = ratings_frame(simulate_answers(protocol, Raters(TRUTH, seed + number)), METHODS)
        asked.append((Design.of_tasks(tasks, pictures), frame[COLUMNS]))
    for number in range(count):
        design, frame = asked[number % ORDERS]
        values = [simulate_values(design, own, spread, protocol, rng) for own in latent]
        yield frame.assign(value=np.stack(values, axis=1).ravel())


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that hold the truth."""

    held: pd.DataFrame  # studies x (criterion, method), bool

    @property
    def pooled(self) -> float:
        return float(self.held.to_numpy().mean())

    @property
    def error(self) -> float:
        """Monte Carlo standard error of `pooled`; the cells of a study are not independent."""
        return float(self.held.mean(axis=1).std() / len(self.held) ** 0.5)


def coverage(protocol: Protocol, count: int, seed: int, spread: Spread | None = None) -> Coverage:
    """Of the intervals that `method_means` gives."""
    held = []
    for frame in studies(protocol, count, seed, spread or Spread()):
        rows = method_means(frame, protocol.scale).set_index(["criterion", "method"])
        truth = pd.Series({key: TRUTH[key[0]][key[1]] for key in rows.index})
        held.append((rows["low"] <= truth) & (truth <= rows["high"]))
    return Coverage(pd.DataFrame(held))


def rivals(protocol: Protocol, count: int, seed: int, spread: Spread) -> dict[str, Coverage]:
    """Of intervals that do without Student's t, or without a model at all."""
    rng = np.random.default_rng(seed)
    held: dict[str, list[pd.Series]] = {"normal quantiles": [], "two-way bootstrap": []}
    for frame in studies(protocol, count, seed, spread):
        normal, bootstrap = {}, {}
        for criterion, own in by_criterion(frame):
            for method, figure in figures(own, "method").items():
                key, truth = (criterion, method), TRUTH[criterion][method]
                reach = stats.norm.ppf(0.975) * figure.interval.standard_error
                normal[key] = abs(truth - figure.value) <= reach
                low, high = two_way_bootstrap(own[own["method"] == method], rng)
                bootstrap[key] = low <= truth <= high
        held["normal quantiles"].append(pd.Series(normal))
        held["two-way bootstrap"].append(pd.Series(bootstrap))
    return {name: Coverage(pd.DataFrame(rows)) for name, rows in held.items()}


def two_way_bootstrap(ratings: pd.DataFrame, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of the mean over resampled people and resampled foregrounds."""
    table = ratings.pivot_table(
        index="annotator",
        columns="scene_id",
        values="value",
        aggfunc=["sum", "count"],
        observed=True,
        fill_value=0,
    )
    sums, counts = table["sum"].to_numpy(float), table["count"].to_numpy(float)
    people, foregrounds = sums.shape
    who = rng.multinomial(people, np.full(people, 1 / people), 500).astype(float)
    what = rng.multinomial(foregrounds, np.full(foregrounds, 1 / foregrounds), 500).astype(float)
    means = ((who @ sums) * what).sum(1) / ((who @ counts) * what).sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--protocol", type=Path, default=Path("configs/study/paper.yaml"))
    parser.add_argument("--rivals", action="store_true", help="also a bootstrap, normal quantiles")
    options = parser.parse_args()
    protocol = read_protocol(options.protocol)
    spreads = {"as assumed": Spread(), "people differ more": Spread(person=0.5, person_method=0.3)}
    for name, spread in spreads.items():
        found = {"t intervals": coverage(protocol, options.studies, 1, spread)}
        if options.rivals:
            found |= rivals(protocol, options.studies, 1, spread)
        for kind, own in found.items():
            print(f"{name}, {kind}: {own.pooled:.3f} +- {own.error:.3f}")
            print(own.held.mean().unstack()[list(METHODS)].round(3).to_string())


if __name__ == "__main__":
    main()
