"""What every request must pass and every response must carry."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anyscene.study.protocol import Protocol
from anyscene.study.records import Submission
from anyscene.study.store import Refused

MAX_BODY_BYTES = 16 * 1024
OWN_HEADER = "x-study"  # a page of another site cannot send it without asking us first
IDENTIFIER = re.compile(r"[0-9a-f]{32}")
LONGEST_SECONDS = 24 * 3600.0

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-robots-tag": "noindex",
}


class SecureHeaders:
    """Adds `HEADERS`, and `no-store` where nothing else is said of caching."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secure(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.setdefault("headers", [])}
                wanted = {"cache-control": "no-store", **HEADERS}
                message["headers"] += [
                    (name.encode(), value.encode())
                    for name, value in wanted.items()
                    if name.encode() not in present
                ]
            await send(message)

        await self.app(scope, receive, send_secure)


def check_origin(request: Request, url: str) -> None:
    """Refuse a request that changes something and does not come from our own page."""
    origin = urlsplit(request.headers.get("origin", "")).netloc
    own = {urlsplit(url).netloc, request.headers.get("host", "")} - {""}
    site = request.headers.get("sec-fetch-site", "same-origin")
    if origin not in own or site != "same-origin" or OWN_HEADER not in request.headers:
        raise Refused(403, "this request does not come from the study's own page")


async def read_json(request: Request) -> Any:
    """The body of a request, if it is small and JSON."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise Refused(415, "the body must be application/json")
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON") from None


def parse_submission(values: Any, protocol: Protocol) -> Submission:
    """A submission of exactly the right form, with a possible value for each criterion."""
    fields = {"id", "task", "answers", "seconds", "replaces"}
    if not isinstance(values, dict) or values.keys() != fields:
        raise Refused(400, f"a submission has {', '.join(sorted(fields))}")
    replaces, answers, seconds = values["replaces"], values["answers"], values["seconds"]
    for identifier in (values["id"], values["task"], *([] if replaces is None else [replaces])):
        if not isinstance(identifier, str) or not IDENTIFIER.fullmatch(identifier):
            raise Refused(400, "an identifier has 32 hexadecimal digits")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise Refused(400, "seconds must be a number")
    if not 0 <= seconds <= LONGEST_SECONDS:  # nor NaN
        raise Refused(400, f"seconds must be between 0 and {LONGEST_SECONDS:g}")
    criteria = {criterion.name for criterion in protocol.criteria}
    if not isinstance(answers, dict) or answers.keys() != criteria:
        raise Refused(400, f"answers must be given to {', '.join(sorted(criteria))}")
    for value in answers.values():
        if type(value) is not int or value not in protocol.values:
            raise Refused(400, f"an answer must be one of {protocol.values}")
    return Submission(values["id"], values["task"], answers, float(seconds), replaces)
