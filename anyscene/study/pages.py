"""The study's HTML pages. Annotators' pages know neither methods nor seeds."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from typing import Any

import jinja2

from anyscene.study.protocol import Protocol
from anyscene.study.records import Answer, Progress

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("anyscene.study"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def study_page(protocol: Protocol, study: str, annotator: str) -> str:
    """Consent, instructions and the form; the script fills it item by item.

    study: the name by which the browser tells studies at one address apart.
    """
    shown = {
        name: getattr(protocol, name)
        for name in ("title", "criteria", "options", "examples", "kind", "contact")
    }
    return _render(
        "study.html.j2",
        **shown,
        study=study,
        annotator=annotator,
        consent=_paragraphs(protocol.consent),
        instructions=_paragraphs(protocol.instructions),
    )


def message_page(title: str, text: str) -> str:
    """One message and nothing else."""
    return _render("message.html.j2", title=title, text=text)


def admin_page(protocol: Protocol, progress: Sequence[Progress], methods: Sequence[str]) -> str:
    """Everybody's progress, pace and attention checks."""
    return _render(
        "admin.html.j2",
        protocol=protocol,
        methods=methods,
        rows=[_admin_row(own, protocol) for own in progress],
        now=datetime.now(UTC).strftime("%H:%M:%S"),
    )


def _admin_row(own: Progress, protocol: Protocol) -> dict[str, Any]:
    """A person's progress with the rules of exclusion applied to it."""
    rules = protocol.exclusion
    seconds = own.median_seconds
    pace = protocol.seconds_per_item if seconds is None else seconds
    return {
        **asdict(own),
        "state": _state(own),
        "minutes_left": round((own.tasks - own.answered) * pace / 60),
        "too_fast": seconds is not None and seconds < rules.min_median_seconds,
        "fails": own.failed_checks > rules.max_failed_checks,
        "last": own.last_at and own.last_at[:16].replace("T", " "),
    }


def _state(own: Progress) -> str:
    if own.answered == own.tasks:
        return "finished"
    if own.answered:
        return "rating"
    if own.consented_at:
        return "consented"
    return "opened" if own.opened_at else "not opened"


def answers_csv(answers: Sequence[Answer]) -> str:
    """One line an answer, with the methods: for the researcher alone."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow([field.name for field in fields(Answer)])
    writer.writerows(astuple(answer) for answer in answers)
    return file.getvalue()


def _render(name: str, **values: Any) -> str:
    return ENVIRONMENT.get_template(name).render(**values)


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part]
