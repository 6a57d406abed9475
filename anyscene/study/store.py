"""A study's data base: SQLite, one transaction a submission, on disk when a call returns.

Submissions are only ever added. Of those for a task the last one counts.
"""

import json
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from anyscene.errors import InputError
from anyscene.study.images import blinded_name
from anyscene.study.protocol import Protocol, parse_protocol
from anyscene.study.records import Answer, Contents, Picture, Progress, Submission, Task
from anyscene.study.tables import (
    LAST,
    SCHEMA,
    VERSION,
    answers_of,
    connect,
    insert,
    progress_of,
    submission_of,
    task_of,
)

FILE_NAME = "study.sqlite"
IMAGES = "images"  # folder beside it
AHEAD = 1  # how many items beyond the first open one may be fetched, so that images load early


class Refused(Exception):
    """A request that the study turns down: an HTTP status and one line for people."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Store:
    """An open data base; its methods may be called from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open the study of a folder. Raises InputError where there is none that we can read."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise InputError(f"{folder} holds no study; `anyscene study create` makes one")
        self._lock = threading.RLock()
        try:
            self._connection = connect(path)
            weakref.finalize(self, self._connection.close)
            values = {row["key"]: row["value"] for row in self._rows("SELECT * FROM study")}
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} is no study: {error}") from None
        if values.get("version") != VERSION:
            raise InputError(
                f"{path} has version {values.get('version')}, this software reads {VERSION}"
            )
        self.protocol: Protocol = parse_protocol(json.loads(values["protocol"]), str(path))
        self.methods: tuple[str, ...] = tuple(json.loads(values["methods"]))
        self.identity = blinded_name(bytes.fromhex(values["secret"]), "study")  # for browsers
        self._admin_sha256: str = values["admin_sha256"]

    @classmethod
    def create(cls, folder: Path, protocol: Protocol, contents: Contents) -> "Store":
        """Write a new data base into a folder and open it."""
        values = {
            "version": VERSION,
            "protocol": json.dumps(asdict(protocol)),
            "methods": json.dumps(contents.methods),
            "admin_sha256": contents.admin_sha256,
            "secret": contents.secret,
            "created_at": _now(),
        }
        connection = connect(folder / FILE_NAME)
        connection.executescript(f"BEGIN; {SCHEMA}")
        connection.executemany("INSERT INTO study VALUES (?, ?)", values.items())
        insert(connection, "people", contents.people)
        insert(connection, "pictures", contents.pictures)
        insert(connection, "tasks", contents.tasks)
        connection.execute("COMMIT")
        connection.close()
        return cls(folder)

    def close(self) -> None:
        """Let the data base go; nothing is lost without it."""
        self._connection.close()

    def answered(self) -> int:
        """How many tasks have an answer."""
        return self._rows("SELECT count(DISTINCT task) FROM submissions")[0][0]

    def retire(self) -> int:
        """Forget all tasks and people, so that a server which has it open takes no answer any more.

        Returns how many tasks have an answer; if there is one, nothing is forgotten.
        """
        with self._transaction():
            answered = self.answered()
            for table in () if answered else ("tasks", "pictures", "people"):
                self._connection.execute(f"DELETE FROM {table}")
        return answered

    def annotator_of(self, token: str) -> str | None:
        """Whose private link has this token."""
        rows = self._rows("SELECT name FROM people WHERE token_sha256 = ?", token_sha256(token))
        return rows[0]["name"] if rows else None

    def is_admin(self, token: str) -> bool:
        """Whether it is the token of the researcher's link."""
        return token_sha256(token) == self._admin_sha256

    def opened(self, annotator: str) -> None:
        """Note that the private link was opened for the first time."""
        self._note_time("opened_at", annotator)

    def consent(self, annotator: str) -> None:
        """Note that the annotator agreed; only then answers are taken."""
        self._note_time("consented_at", annotator)

    def has_consented(self, annotator: str) -> bool:
        """Whether the annotator agreed."""
        rows = self._rows("SELECT consented_at FROM people WHERE name = ?", annotator)
        return rows[0]["consented_at"] is not None

    def people(self) -> list[str]:
        """Pseudonyms of all annotators."""
        return [row["name"] for row in self._rows("SELECT name FROM people ORDER BY name")]

    def pictures(self) -> dict[str, Picture]:
        """All images by their blinded names."""
        return {row["name"]: Picture(*row) for row in self._rows("SELECT * FROM pictures")}

    def tasks(self, annotator: str) -> list[Task]:
        """Everything that a person is to see, in order."""
        query = "SELECT * FROM tasks WHERE annotator = ? ORDER BY position"
        return [task_of(row) for row in self._rows(query, annotator)]

    def first_open(self, annotator: str) -> int:
        """Position of the first unanswered task; the number of tasks when there is none."""
        query = """
        SELECT count(*) FROM tasks AS t WHERE annotator = ?
        AND EXISTS (SELECT 1 FROM submissions WHERE task = t.id)"""
        return self._rows(query, annotator)[0][0]  # tasks are answered in order

    def task_at(self, annotator: str, position: int) -> tuple[Task, Submission | None]:
        """A person's task and its last submission. Raises Refused beyond what may be seen."""
        query = "SELECT * FROM tasks WHERE annotator = ? AND position = ?"
        rows = self._rows(query, annotator, position)
        if not rows or not self._is_reached(annotator, position - AHEAD):
            raise Refused(404, "there is no such item yet")
        return task_of(rows[0]), self._last(rows[0]["id"])

    def task(self, annotator: str, identifier: str) -> Task:
        """A person's own task that may be seen. Raises Refused for all others."""
        query = "SELECT * FROM tasks WHERE id = ? AND annotator = ?"
        rows = self._rows(query, identifier, annotator)
        if not rows or not self._is_reached(annotator, rows[0]["position"] - AHEAD):
            raise Refused(404, "there is no such item in this person's list")
        return task_of(rows[0])

    def picture(self, name: str) -> Picture:
        """The image of a blinded name."""
        return Picture(*self._rows("SELECT * FROM pictures WHERE name = ?", name)[0])

    def submit(self, annotator: str, new: Submission) -> bool:
        """Put a submission on disk; False if it was there already.

        Raises:
            Refused: another person's task, an item out of turn, no consent, an identifier used
                for something else, or an answer that was changed meanwhile in another window.
        """
        with self._transaction():
            task = self.task(annotator, new.task)
            known = self._rows("SELECT * FROM submissions WHERE id = ?", new.id)
            if known:
                if submission_of(known[0]) != new:
                    raise Refused(409, "this submission was sent before with other content")
                return False
            if not self.has_consented(annotator):
                raise Refused(403, "consent comes first")
            if not self._is_reached(annotator, task.position):
                raise Refused(409, "the items before this one come first")
            last = self._last(task.id)
            if (last.id if last else None) != new.replaces:
                raise Refused(409, "this item was answered meanwhile in another window")
            row = (new.id, new.task, json.dumps(new.answers), new.seconds, new.replaces, _now())
            self._connection.execute("INSERT INTO submissions VALUES (NULL, ?, ?, ?, ?, ?, ?)", row)
        return True

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read within is of one moment, while a server's answers still come in."""
        with self._transaction("DEFERRED"):
            yield

    def answers(self) -> list[Answer]:
        """The last value of every person, item and criterion, by person and position."""
        query = f"""
        SELECT t.*, l.answers, l.spent, l.changes, l.received_at
        FROM tasks AS t JOIN ({LAST}) AS l ON l.task = t.id AND l.newness = 1
        ORDER BY t.annotator, t.position"""
        pictures = self.pictures()
        return [answer for row in self._rows(query) for answer in answers_of(row, pictures)]

    def progress(self) -> list[Progress]:
        """How far everyone is, by pseudonym."""
        query = f"""
        SELECT t.annotator, t.expected, l.answers, l.spent, l.changes, l.received_at
        FROM tasks AS t LEFT JOIN ({LAST}) AS l ON l.task = t.id AND l.newness = 1"""
        own: dict[str, list[sqlite3.Row]] = {}
        for row in self._rows(query):
            own.setdefault(row["annotator"], []).append(row)
        people = self._rows("SELECT * FROM people ORDER BY name")
        return [progress_of(person, own[person["name"]]) for person in people]

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:  # on one connection, a reader would see what is not committed yet
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All or nothing, and the only one that writes; on disk at its end."""
        with self._lock:
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield
            except BaseException:
                if self._connection.in_transaction:  # if the disk is full, SQLite rolled back
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _note_time(self, column: str, annotator: str) -> None:
        query = f"UPDATE people SET {column} = ? WHERE name = ? AND {column} IS NULL"
        with self._transaction():
            self._connection.execute(query, (_now(), annotator))

    def _is_reached(self, annotator: str, position: int) -> bool:
        """Whether all tasks before a position are answered."""
        query = """
        SELECT 1 FROM tasks JOIN submissions ON task = tasks.id
        WHERE annotator = ? AND position = ? LIMIT 1"""
        return position <= 0 or bool(self._rows(query, annotator, position - 1))

    def _last(self, task: str) -> Submission | None:
        query = "SELECT * FROM submissions WHERE task = ? ORDER BY number DESC LIMIT 1"
        rows = self._rows(query, task)
        return submission_of(rows[0]) if rows else None


def token_sha256(token: str) -> str:
    """What is kept of a private link's token."""
    return sha256(token.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
