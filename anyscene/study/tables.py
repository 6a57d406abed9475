"""The tables of a study's data base, and its rows as records."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from pathlib import Path
from statistics import median
from typing import Any

from anyscene.study.records import Answer, Picture, Progress, Submission, Task

VERSION = "1"

SCHEMA = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE people (
  name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE, opened_at TEXT, consented_at TEXT
) STRICT;
CREATE TABLE pictures (
  name TEXT PRIMARY KEY, method TEXT NOT NULL, scene_id TEXT NOT NULL, prompt TEXT NOT NULL,
  seed INTEGER NOT NULL, foreground TEXT NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL
) STRICT;
CREATE TABLE tasks (
  id TEXT PRIMARY KEY, annotator TEXT NOT NULL REFERENCES people (name),
  position INTEGER NOT NULL, part INTEGER NOT NULL, item TEXT NOT NULL,
  image TEXT NOT NULL REFERENCES pictures (name), image_b TEXT REFERENCES pictures (name),
  swapped INTEGER NOT NULL, expected INTEGER, repeat_of TEXT, UNIQUE (annotator, position)
) STRICT;
CREATE TABLE submissions (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, task TEXT NOT NULL REFERENCES tasks (id),
  answers TEXT NOT NULL, seconds REAL NOT NULL, replaces TEXT, received_at TEXT NOT NULL
) STRICT;
CREATE INDEX submissions_of_a_task ON submissions (task, number);
"""

LAST = """
SELECT s.*, count(*) OVER (PARTITION BY s.task) - 1 AS changes,
  sum(s.seconds) OVER (PARTITION BY s.task) AS spent,
  row_number() OVER (PARTITION BY s.task ORDER BY s.number DESC) AS newness
FROM submissions AS s
"""
"""The submissions, each with its task's changes and seconds; the last of a task has newness 1."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk when they return, also when the power fails.

    Raises sqlite3.DatabaseError for a file that is no data base.
    """
    connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def insert(connection: sqlite3.Connection, table: str, records: Iterable[Any]) -> None:
    """Add dataclasses whose fields are a table's columns, in this order."""
    for record in records:
        values = astuple(record)
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {table} VALUES ({marks})", values)


def task_of(row: sqlite3.Row) -> Task:
    return Task(**{**dict(row), "swapped": bool(row["swapped"])})


def submission_of(row: sqlite3.Row) -> Submission:
    return Submission(
        row["id"], row["task"], json.loads(row["answers"]), row["seconds"], row["replaces"]
    )


def answers_of(row: sqlite3.Row, pictures: Mapping[str, Picture]) -> list[Answer]:
    """One a criterion, of a task joined with its last submission."""
    first = pictures[row["image"]]
    second = pictures.get(row["image_b"])
    sign = -1 if row["swapped"] else 1
    return [
        Answer(
            annotator=row["annotator"],
            item=row["item"],
            scene_id=first.scene_id,
            foreground=first.foreground,
            prompt=first.prompt,
            method=first.method,
            seed=first.seed,
            criterion=criterion,
            value=sign * value,
            seconds=row["spent"],
            check=row["expected"] is not None,
            expected=row["expected"],
            repeat_of=row["repeat_of"],
            position=row["position"],
            changes=row["changes"],
            submitted_at=row["received_at"],
            method_b=second.method if second else "",
            image=first.name,
            image_b=second.name if second else "",
            swapped=bool(row["swapped"]),
        )
        for criterion, value in json.loads(row["answers"]).items()
    ]


def progress_of(person: sqlite3.Row, rows: list[sqlite3.Row]) -> Progress:
    """Of a row of `people` and the person's tasks, each joined with its last submission if any."""
    answered = [row for row in rows if row["answers"] is not None]
    checks = [row for row in answered if row["expected"] is not None]
    failed = [
        row for row in checks if set(json.loads(row["answers"]).values()) != {row["expected"]}
    ]
    seconds = [row["spent"] for row in answered if row["expected"] is None]
    return Progress(
        annotator=person["name"],
        tasks=len(rows),
        answered=len(answered),
        opened_at=person["opened_at"],
        consented_at=person["consented_at"],
        last_at=max((row["received_at"] for row in answered), default=None),
        median_seconds=median(seconds) if seconds else None,
        checks=len(checks),
        failed_checks=len(failed),
        changes=sum(row["changes"] for row in answered),
    )
