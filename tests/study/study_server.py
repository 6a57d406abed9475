"""A real server process for tests, and a client that behaves as the page's script does."""

import http.client
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Server:
    """`anyscene study serve` of a folder, as a process."""

    folder: Path
    url: str = ""
    process: subprocess.Popen[str] | None = None

    def start(self) -> "Server":
        """Start it, on the same port as before if there was one; returns when it answers."""
        port = urlsplit(self.url).port or 0
        command = [sys.executable, "-m", "anyscene.cli", "study", "serve", str(self.folder)]
        self.process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "serving" in line
        self.url = line.split(" at ")[1].split(";")[0]
        return self

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it: at once, as kill -9 does, unless said otherwise."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.communicate(timeout=30)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server while the context lasts."""
    server = Server(folder)
    try:
        yield server.start()
    finally:
        server.stop()


@dataclass
class Client:
    """An annotator's browser without a screen."""

    url: str
    token: str
    cookie: str = ""

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        self.connection = http.client.HTTPConnection(address.netloc, timeout=30)
        status, headers, _ = self.request("GET", f"/s/{self.token}")
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]

    def request(
        self, method: str, path: str, body: Any = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of an answer."""
        headers = {"Cookie": self.cookie}
        if method == "POST":
            headers |= {"Origin": self.url, "X-Study": "1", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        self.connection.request(method, path, data, headers)
        response = self.connection.getresponse()
        return response.status, response.headers, response.read()

    def close(self) -> None:
        """Close its connection."""
        self.connection.close()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The values of an answer that must be right."""
        status, _, data = self.request(method, path, body)
        assert status == 200, (status, data)
        return json.loads(data)

    def answer(self, task: dict[str, Any], values: dict[str, int], seconds: float = 3.0) -> str:
        """Submit values for a task; returns the submission's identifier."""
        identifier = secrets.token_hex(16)
        body = {
            "id": identifier,
            "task": task["task"],
            "answers": values,
            "seconds": seconds,
            "replaces": task["submission"],
        }
        self.json("POST", "/api/answer", body)
        return identifier
