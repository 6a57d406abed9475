"""The data base: one value that counts, nothing lost to kill -9, nothing twice."""

import json
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from child_process import child_process
from small_study import METHODS, PROTOCOL, Links, make_study

from anyscene.errors import InputError
from anyscene.study.records import Submission
from anyscene.study.store import FILE_NAME, Refused, Store

REPOSITORY = Path(__file__).resolve().parents[2]
ANSWERS = {"quality": 3, "fidelity": 4}
WRITER = """
import sys
from pathlib import Path
from anyscene.study.records import Submission
from anyscene.study.store import Store
store = Store(Path(sys.argv[1]))
tasks, last = store.tasks("a01"), {}
for number in range(10**6):
    task = tasks[number % len(tasks)].id
    identifier = f"{number:032x}"
    new = Submission(identifier, task, {"quality": 1, "fidelity": 2}, 1.0, last.get(task))
    store.submit("a01", new)
    last[task] = identifier
    print(identifier, flush=True)
"""


@pytest.fixture
def store(study: tuple[Path, Links]) -> Store:
    """Of a study, in `tmp_path/study`, that everyone agreed to take part in."""
    own = Store(study[0])
    for name in own.people():
        own.consent(name)
    return own


def submission(number: int, task: str, replaces: str | None = None, value: int = 3) -> Submission:
    answers = {**ANSWERS, "quality": value}
    return Submission(f"{number:032x}", task, answers, 2.5, replaces)


def test_sent_again_a_submission_counts_once(store: Store):
    task = store.tasks("a01")[0]
    new = submission(1, task.id)
    assert store.submit("a01", new)
    assert not store.submit("a01", new)
    assert {(one.criterion, one.value) for one in store.answers()} == set(ANSWERS.items())
    assert {one.changes for one in store.answers()} == {0}
    with pytest.raises(Refused, match="other content"):
        store.submit("a01", replace(new, seconds=9.0))
    with pytest.raises(Refused, match="other content"):
        store.submit("a01", replace(new, answers={"quality": 1, "fidelity": 1}))


def test_the_last_change_counts_and_changes_and_seconds_add_up(store: Store):
    task = store.tasks("a01")[0]
    store.submit("a01", submission(1, task.id, value=1))
    store.submit("a01", submission(2, task.id, f"{1:032x}", value=4))
    (answer,) = (one for one in store.answers() if one.criterion == "quality")
    assert (answer.value, answer.changes, answer.seconds) == (4, 1, 5.0)
    assert store.task_at("a01", 0)[1] == submission(2, task.id, f"{1:032x}", value=4)


def test_the_last_change_counts_although_the_clock_was_set_back(store: Store, monkeypatch):
    task, clock = store.tasks("a01")[0], iter(["2024-05-05T10:00:00", "2024-05-05T09:00:00"])
    monkeypatch.setattr("anyscene.study.store._now", lambda: next(clock))
    store.submit("a01", submission(2, task.id, value=1))
    store.submit("a01", submission(1, task.id, f"{2:032x}", value=4))
    (answer,) = (one for one in store.answers() if one.criterion == "quality")
    assert (answer.value, answer.submitted_at) == (4, "2024-05-05T09:00:00")
    assert store.task_at("a01", 0)[1] == submission(1, task.id, f"{2:032x}", value=4)


def test_a_change_of_something_changed_meanwhile_is_refused(store: Store):
    task = store.tasks("a01")[0]
    with pytest.raises(Refused, match="another window"):
        store.submit("a01", submission(3, task.id, replaces=f"{9:032x}"))
    store.submit("a01", submission(1, task.id))
    for late in (submission(2, task.id), submission(3, task.id, replaces=f"{9:032x}")):
        with pytest.raises(Refused, match="another window") as refused:
            store.submit("a01", late)
        assert refused.value.status == 409
    assert len(store.answers()) == len(ANSWERS)


def test_of_two_windows_at_once_one_wins(store: Store):
    task = store.tasks("a01")[0]
    outcomes: Counter[str] = Counter()
    ready = threading.Barrier(8)

    def answer(number: int) -> None:
        ready.wait(30)
        try:
            store.submit("a01", submission(number, task.id))
            outcomes["stored"] += 1
        except Refused:
            outcomes["refused"] += 1

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {"stored": 1, "refused": 7}


def test_items_come_in_order_and_only_one_s_own(store: Store):
    own, other = store.tasks("a01"), store.tasks("a02")
    for wrong, status in ((own[1].id, 409), (own[2].id, 404), (other[0].id, 404), ("f" * 32, 404)):
        with pytest.raises(Refused) as refused:
            store.submit("a01", submission(1, wrong))
        assert refused.value.status == status
    assert store.task_at("a01", 1)[0] == own[1]  # to load its images early
    with pytest.raises(Refused):
        store.task_at("a01", 2)
    store.submit("a01", submission(1, own[0].id))
    assert store.first_open("a01") == 1
    assert store.task_at("a01", 2)[0] == own[2]
    store.submit("a01", submission(2, own[1].id))
    with pytest.raises(Refused):
        store.task_at("a01", len(own))


def test_without_consent_nothing_is_stored(study: tuple[Path, Links]):
    store = Store(study[0])
    with pytest.raises(Refused, match="consent"):
        store.submit("a01", submission(1, store.tasks("a01")[0].id))
    store.consent("a01")
    assert store.submit("a01", submission(1, store.tasks("a01")[0].id))


def test_answers_say_what_was_seen(store: Store):
    """Fields of ratings, checks and repeats, against the plan and the pictures."""
    tasks = store.tasks("a01")
    for number, task in enumerate(tasks):
        store.submit("a01", submission(number, task.id, value=1 + number % 4))
    answers = {one.position: one for one in store.answers() if one.criterion == "quality"}
    assert len(store.answers()) == len(tasks) * len(ANSWERS)
    pictures = store.pictures()
    for number, task in enumerate(tasks):
        answer, picture = answers[task.position], pictures[task.image]
        assert (answer.value, answer.item, answer.image) == (1 + number % 4, task.item, task.image)
        assert (answer.method, answer.prompt) == (picture.method, picture.prompt)
        assert answer.check == (task.expected is not None) == (answer.method == "")
        if task.repeat_of:
            assert answers[[one.item for one in tasks].index(task.repeat_of)].image == task.image
    keys = [(one.annotator, one.item, one.criterion) for one in store.answers()]
    assert len(set(keys)) == len(keys)
    assert {one.seed for one in store.answers()} == {10}


def test_values_of_a_pair_are_of_methods_not_of_sides(tmp_path: Path):
    """Everybody finds the left picture better: half of the values must turn."""
    protocol = replace(PROTOCOL, kind="pairwise", repeats=0, attention_checks=0)
    store = Store(make_study(tmp_path, protocol)[0])
    store.consent("a01")
    for number, task in enumerate(store.tasks("a01")):
        store.submit("a01", submission(number, task.id, value=-1))
    answers = [one for one in store.answers() if one.criterion == "quality"]
    assert {one.swapped for one in answers} == {True, False}
    for answer in answers:
        assert (answer.method, answer.method_b) == METHODS
        assert answer.value == (1 if answer.swapped else -1)
        pictures = store.pictures()
        assert pictures[answer.image].method == METHODS[0]
        assert pictures[answer.image_b].method == METHODS[1]


def test_progress_counts_checks_pace_and_changes(store: Store):
    tasks = store.tasks("a01")
    for number, task in enumerate(tasks[:-1]):
        expected = task.expected or 1
        wrong = {"quality": expected, "fidelity": expected % 4 + 1}
        store.submit("a01", Submission(f"{number:032x}", task.id, wrong, number + 1.0, None))
    mine, other = store.progress()[:2]
    assert (mine.answered, mine.tasks, mine.checks, mine.failed_checks) == (9, 10, 1, 1)
    place = next(task.position for task in tasks if task.expected)
    seconds = sorted(number + 1.0 for number in range(9) if number != place)
    assert mine.median_seconds == (seconds[3] + seconds[4]) / 2
    assert mine.last_at is not None
    assert (other.answered, other.median_seconds, other.last_at) == (0, None, None)


@pytest.mark.parametrize("count", [3, 17, 40])
def test_what_was_acknowledged_is_there_after_kill_9(count: int, store: Store, tmp_path: Path):
    folder = tmp_path / "study"
    store.close()
    command = [sys.executable, "-c", WRITER, str(folder)]
    with child_process(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().strip() for _ in range(count)]
        writer.kill()  # somewhere in the next one, or one of the next
        acknowledged += writer.stdout.read().split()  # communicate() leaves out what is buffered
    again = Store(folder)
    with sqlite3.connect(folder / FILE_NAME) as connection:
        rows = connection.execute("SELECT id FROM submissions ORDER BY number")
        stored = [row[0] for row in rows]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert stored[: len(acknowledged)] == acknowledged
    assert len(stored) - len(acknowledged) <= 1  # committed, and killed before saying so
    assert len(again.answers()) == len(ANSWERS) * min(len(stored), len(again.tasks("a01")))


def test_writes_are_flushed_to_disk(store: Store):
    """What kill -9 cannot show, but a power failure would."""
    connection = store._connection
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # full


def test_a_full_disk_is_told_as_such_and_once_there_is_room_nothing_is_missing(store: Store):
    task, sent = store.tasks("a01")[0].id, []
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")

    def change_and_change() -> None:
        for number in range(10**4):
            sent.append(submission(number, task, sent[-1].id if sent else None))
            store.submit("a01", sent[-1])

    with pytest.raises(sqlite3.OperationalError, match="full"):
        change_and_change()
    assert store.task_at("a01", 0)[1] == sent[-2]
    store._connection.execute(f"PRAGMA max_page_count = {2 * pages}")
    assert store.submit("a01", sent[-1])
    assert store.task_at("a01", 0)[1] == sent[-1]


def test_a_folder_that_is_no_study_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="holds no study"):
        Store(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(b"not a data base, but long enough" * 20)
    with pytest.raises(InputError, match="is no study"):
        Store(tmp_path)


def test_a_study_of_another_version_is_told(store: Store, tmp_path: Path):
    store.close()
    with sqlite3.connect(tmp_path / "study" / FILE_NAME) as connection:
        connection.execute("UPDATE study SET value = ? WHERE key = 'version'", (json.dumps(9),))
    connection.close()
    with pytest.raises(InputError, match="version 9"):
        Store(tmp_path / "study")
