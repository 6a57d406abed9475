"""Every route under what hypothesis thinks of: never a failure, a leak or a stored answer."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_study import METHODS, Links
from web import OWN, URL, Visitor

from anyscene.study.guard import HEADERS
from anyscene.study.server import Site

VERBS = ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
WORDS = st.sampled_from(
    ["0", "1", "9", "-1", "first", "second", "foreground", "image", "study.css", "..", "%2e%2e"]
)
PIECES = st.one_of(WORDS, st.text(max_size=40), st.binary(max_size=20).map(lambda b: b.hex()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
QUIET = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def patterns(made: tuple[Path, Links]) -> list[str]:
    """The paths of all routes, with their parameters in braces."""
    return [route.path for route in Site(made[0], URL).routes()]


def check(visitor: Visitor, verb: str, path: str, **content: Any) -> int:
    """Ask, and look at the answer as everybody may."""
    response = visitor.client.request(verb, path, **content)
    assert response.status_code < 500
    for name, value in HEADERS.items():
        assert response.headers[name] == value
    assert not any(method.encode() in response.content for method in METHODS)
    return response.status_code


def encoded(piece: str) -> str:
    """A piece of a path as an address has it; dots and per cents stay."""
    return quote(piece.encode("utf-8", "surrogatepass"), safe="%.")


@QUIET
@given(data=st.data())
def test_no_path_or_verb_breaks_a_route(data, visitor: Visitor, patterns: list[str]):
    pattern = data.draw(st.sampled_from(patterns))
    path = "/".join(
        encoded(data.draw(PIECES)) if part.startswith("{") else part for part in pattern.split("/")
    )
    verb = data.draw(st.sampled_from(VERBS))
    status = check(visitor, verb, path, headers=OWN)
    # never 303, which a private link gives; nothing is taken without a body
    answers = (200, 307, 403, 404, 405) if verb in ("GET", "HEAD") else (307, 404, 405, 415)
    assert status in answers


@QUIET
@given(body=JSON, path=st.sampled_from(["/api/answer", "/api/consent"]))
def test_no_json_breaks_a_route(body: Any, path: str, visitor: Visitor):
    headers = {**OWN, "Content-Type": "application/json"}
    status = check(visitor, "POST", path, content=json.dumps(body), headers=headers)
    assert status == (200 if path == "/api/consent" else 400)


@QUIET
@given(
    body=st.binary(max_size=200),
    kind=st.sampled_from(["application/json", "application/json; charset=utf-7", "text/html", ""]),
)
def test_no_bytes_break_a_route(body: bytes, kind: str, visitor: Visitor):
    headers = {**OWN, "Content-Type": kind}
    status = check(visitor, "POST", "/api/answer", content=body, headers=headers)
    assert status == (400 if kind.startswith("application/json") else 415)


@QUIET
@given(data=st.data())
def test_no_submission_of_the_right_form_is_stored_unless_it_is_right(data, visitor: Visitor):
    identifiers = st.sampled_from(["0" * 32, "f" * 32]) | st.text("0123456789abcdef", max_size=33)
    values = st.integers(-1, 6) | JSON
    body = {
        "id": data.draw(identifiers),
        "task": data.draw(identifiers | JSON),
        "answers": data.draw(st.fixed_dictionaries({"quality": values, "fidelity": values}) | JSON),
        "seconds": data.draw(st.floats() | JSON),
        "replaces": data.draw(st.none() | identifiers | JSON),
    }
    headers = {**OWN, "Content-Type": "application/json"}
    status = check(visitor, "POST", "/api/answer", content=json.dumps(body), headers=headers)
    assert status in (400, 404)


@QUIET
@given(
    name=st.sampled_from(["Origin", "Host", "Cookie", "Sec-Fetch-Site", "X-Study", "Range"]),
    value=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
    path=st.sampled_from(["/", "/api/state", "/api/task/0", "/admin", "/static/study.js"]),
)
def test_no_header_breaks_a_route(name: str, value: str, path: str, visitor: Visitor):
    read = check(visitor, "GET", path, headers={name: value})
    assert read == 403 if path == "/admin" else read in (200, 403)
    written = check(visitor, "POST", "/api/answer", json={}, headers={**OWN, name: value})
    assert written in (400, 403)


def test_after_all_of_this_nothing_is_stored(visitor: Visitor):
    assert visitor.get("/api/state").json()["open"] == 0
    assert visitor.task(0)["answers"] is None
