"""Answers that no page of ours sends: each is refused, and nothing is stored."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from web import OWN, Visitor, submission

from anyscene.study.guard import MAX_BODY_BYTES, read_json
from anyscene.study.store import Refused

FORGERIES: list[dict[str, Any]] = [
    {"answers": {"quality": 5, "fidelity": 1}},
    {"answers": {"quality": 0, "fidelity": 1}},
    {"answers": {"quality": True, "fidelity": 1}},
    {"answers": {"quality": 2.0, "fidelity": 1}},
    {"answers": {"quality": "2", "fidelity": 1}},
    {"answers": {"quality": 2}},
    {"answers": {"quality": 2, "fidelity": 1, "more": 1}},
    {"answers": [2, 1]},
    {"answers": None},
    {"seconds": -1},
    {"seconds": 1e9},
    {"seconds": "3"},
    {"seconds": True},
    {"seconds": None},
    {"id": "1"},
    {"id": "G" * 32},
    {"id": "é" * 32},
    {"id": 3},
    {"id": None},
    {"id": "0" * 33},
    {"task": "' OR 1=1 --"},
    {"task": ["0" * 32]},
    {"replaces": "x"},
    {"replaces": 0},
    {"annotator": "a02"},
    {"received_at": "2000-01-01"},
]


@pytest.mark.parametrize("changes", FORGERIES, ids=str)
def test_a_forged_answer_is_refused(changes: dict[str, Any], visitor: Visitor):
    response = visitor.post("/api/answer", submission(visitor.task(0), **changes))
    assert response.status_code == 400
    assert response.json()["error"]
    assert visitor.task(0)["answers"] is None


@pytest.mark.parametrize(
    "body", ["", "{", "[" * 9000, "NaN", "9" * 9000, '"\\ud800"', "[]", "null"]
)
def test_a_body_that_is_no_answer_is_refused(body: str, visitor: Visitor):
    headers = {**OWN, "Content-Type": "application/json"}
    response = visitor.client.post("/api/answer", content=body, headers=headers)
    assert response.status_code == 400


def test_not_a_number_is_no_time(visitor: Visitor):
    headers = {**OWN, "Content-Type": "application/json"}
    for seconds in ("NaN", "Infinity", "1e999"):
        body = str(submission(visitor.task(0), seconds=0)).replace("'", '"')
        body = body.replace('"seconds": 0', f'"seconds": {seconds}').replace("None", "null")
        assert visitor.client.post("/api/answer", content=body, headers=headers).status_code == 400


def test_an_oversized_body_is_refused(visitor: Visitor):
    headers = {**OWN, "Content-Type": "application/json"}
    large = b" " * (MAX_BODY_BYTES + 1)
    for path in ("/api/answer", "/api/consent"):
        assert visitor.client.post(path, content=large, headers=headers).status_code == 413


def test_an_endless_body_is_not_read_to_its_end():
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 1024, "more_body": True}

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(Refused, match="larger than"):
        asyncio.run(read_json(Request(scope, receive)))
    assert read == MAX_BODY_BYTES // 1024 + 1
