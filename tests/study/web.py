"""A study behind a test client, and what its routes are."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx2 import Response
from small_study import Links
from starlette.testclient import TestClient

from anyscene.study.server import build_app

URL = "http://testserver"
OWN = {"Origin": URL, "X-Study": "1"}  # what the study's own page sends with a change


@dataclass
class Visitor:
    """A browser with its cookies."""

    client: TestClient

    @classmethod
    def of(cls, folder: Path, url: str = URL) -> "Visitor":
        """One without a link."""
        return cls(TestClient(build_app(folder, url), URL, follow_redirects=False))

    def enter(self, token: str, route: str = "s") -> "Visitor":
        """Open a private link."""
        assert self.client.get(f"/{route}/{token}").status_code == 303
        return self

    def get(self, path: str) -> Response:
        return self.client.get(path)

    def post(self, path: str, body: Any, headers: dict[str, str] = OWN) -> Response:
        return self.client.post(path, json=body, headers=headers)

    def task(self, position: int) -> dict[str, Any]:
        """A task's description."""
        return self.get(f"/api/task/{position}").json()


def annotator(folder: Path, links: Links, name: str = "a01") -> Visitor:
    """Somebody who agreed to take part."""
    visitor = Visitor.of(folder).enter(links.people[name])
    assert visitor.post("/api/consent", {}).status_code == 200
    return visitor


def submission(described: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The body of an answer to a task that the server described."""
    body = {
        "id": secrets.token_hex(16),
        "task": described["task"],
        "answers": {"quality": 2, "fidelity": 4},
        "seconds": 3.5,
        "replaces": described["submission"],
    }
    return {**body, **changes}
