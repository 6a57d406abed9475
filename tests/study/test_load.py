"""Fifty annotators at once against a real server: no rating lost, and how long each one takes."""

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from small_study import PROTOCOL, make_study
from study_server import Client, running

from anyscene.study.store import Store

PEOPLE = 50
SECONDS_AN_ITEM = 1.5  # far less than people take
LIMIT_SECONDS = 0.1
LOAD = replace(
    PROTOCOL,
    sets=1,
    annotators=PEOPLE,
    ratings_per_image=PEOPLE,
    attention_checks=0,
    repeats=0,
)


@dataclass
class Session:
    """What the server acknowledged to one person, by position, and the seconds of each rating."""

    given: dict[int, dict[str, int]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def rate_everything(url: str, name: str, token: str) -> Session:
    """As a person does, but faster."""
    rng = random.Random(name)
    time.sleep(rng.uniform(0, SECONDS_AN_ITEM))
    session = Session()
    with closing(Client(url, token)) as client:
        client.json("POST", "/api/consent", {})
        for position in range(client.json("GET", "/api/state")["total"]):
            task = client.json("GET", f"/api/task/{position}")
            for image in (task["foreground"], *task["images"]):
                assert client.request("GET", image)[0] == 200
            time.sleep(rng.uniform(0.5, 1.5) * SECONDS_AN_ITEM)
            values = {"quality": rng.randint(1, 4), "fidelity": rng.randint(1, 4)}
            started = time.perf_counter()
            client.answer(task, values)
            session.seconds.append(time.perf_counter() - started)
            session.given[position] = values
    return session


def load_server(folder: Path) -> list[float]:
    """Let everybody rate at once; returns the seconds of each rating, all of which are stored."""
    study, links = make_study(folder, LOAD, size=512)
    with running(study) as server, ThreadPoolExecutor(PEOPLE) as pool:
        futures = {
            name: pool.submit(rate_everything, server.url, name, token)
            for name, token in links.people.items()
        }
        sessions = {name: future.result() for name, future in futures.items()}
    stored: dict[str, dict[int, dict[str, int]]] = {name: {} for name in sessions}
    for answer in Store(study).answers():
        own = stored[answer.annotator].setdefault(answer.position, {})
        own[answer.criterion] = answer.value
    assert stored == {name: session.given for name, session in sessions.items()}
    return [one for session in sessions.values() for one in session.seconds]


@pytest.mark.slow
def test_fifty_annotators_at_once_lose_nothing_and_hardly_wait(tmp_path: Path):
    """Three attempts at the time, since the machine may be busy with something else."""
    best = float("inf")
    for attempt in range(3):
        seconds = load_server(tmp_path / str(attempt))
        percentiles = statistics.quantiles(seconds, n=100)
        told = [f"{share}th {1000 * percentiles[share - 1]:.0f} ms" for share in (50, 95, 99)]
        print(f"\n{len(seconds)} ratings of {PEOPLE} people; percentiles: {', '.join(told)}")
        best = min(best, percentiles[94])
        if best < LIMIT_SECONDS:
            break
    assert best < LIMIT_SECONDS
