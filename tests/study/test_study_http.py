"""A whole synthetic study through the real server: from private links to the report."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from report_run import Page
from simulated import PROTOCOL, TRUTH
from small_study import make_study
from study_server import Client, running

from anyscene.study.demo import submission
from anyscene.study.report import write_study_report
from anyscene.study.simulate import Raters, simulate_submissions
from anyscene.study.store import Store

METHODS = ("smooth_method", "noisy_method")
MEANS = {criterion: dict(zip(METHODS, (1.9, 3.1), strict=True)) for criterion in TRUTH}
SMALL = replace(
    PROTOCOL, foregrounds=4, prompts=2, sets=4, annotators=4, ratings_per_image=2, repeats=2
)


def answer_everything(url, token, wanted):
    """One person in a browser of their own. wanted: submissions by task."""
    client = Client(url, token)
    client.json("POST", "/api/consent", {})
    state = client.json("GET", "/api/state")
    for position in range(state["total"]):
        task = client.json("GET", f"/api/task/{position}")
        own = wanted[task["task"]]
        client.answer(task, own.answers, own.seconds)
    assert client.json("GET", "/api/state")["open"] == state["total"]
    client.connection.close()


@pytest.mark.parametrize("kind", ["rating", "pairwise"])
def test_what_simulated_people_send_over_http_is_what_the_report_is_of(kind, tmp_path):
    protocol = replace(SMALL, kind=kind)
    study, links = make_study(tmp_path, protocol, METHODS)
    raters = Raters(MEANS, seed=2, careless=("a04",))
    store = Store(study)
    tasks = [task for person in store.people() for task in store.tasks(person)]
    given = simulate_submissions(tasks, store.pictures(), protocol, raters)
    store.close()
    wanted = {
        task.id: submission(task, values, seconds)
        for task, (values, seconds) in zip(tasks, given, strict=True)
    }
    with running(study) as server, ThreadPoolExecutor(len(links.people)) as people:
        done = [
            people.submit(answer_everything, server.url, token, wanted)
            for token in links.people.values()
        ]
        for person in done:
            person.result()
    page = Page(write_study_report(study).read_text())
    assert page.open == []
    assert not page.says("Preliminary")
    assert page.rows["a04"][-1].endswith("s an item, less than 2 s")
    found = pd.read_csv(study / "report/ratings.csv")
    expected = {
        (task.annotator, task.position, criterion): value
        for task, (values, _) in zip(tasks, given, strict=True)
        for criterion, value in values.items()
    }
    keys = zip(found["annotator"], found["position"], found["criterion"], strict=True)
    assert dict(zip(keys, found["value"], strict=True)) == expected
