"""A small W&B server on this machine, as good or as bad as a test asks for."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER = {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"name": "anyscene", "entity": {"name": "me"}}
HANG_SECONDS = 60


class Server(ThreadingHTTPServer):
    """Answers W&B's client according to `mood`:

    `good` answers as the real one does to what the client needs; `errors` says 500 to all;
    `nonsense` answers with JSON of the wrong shape; `full` lets runs begin and takes no figures;
    `hangs` takes requests and never answers.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, mood: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.mood = mood
        self.history: dict[int, dict[str, Any]] = {}  # by line
        self.runs: list[dict[str, Any]] = []
        self.ended = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        match self.server.mood:
            case "hangs":
                self.server.ended.wait(HANG_SECONDS)
                return
            case "errors":
                self._answer({"errors": [{"message": "out of order"}]}, 500)
                return
            case "nonsense":
                self._answer({"data": {"upsertBucket": {"bucket": {"id": "r"}}}})
                return
        if self.path.endswith("file_stream"):
            if self.server.mood == "full":
                self._answer({"error": "storage quota exceeded"}, 403)
                return
            self._stream(json.loads(body))
        elif self.path.endswith("graphql"):
            self._answer({"data": self._query(json.loads(body))})
        else:
            self._answer({})  # telemetry

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, values: Any, code: int = 200) -> None:
        text = json.dumps(values).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, values: dict[str, Any]) -> None:
        history = (values.get("files") or {}).get("wandb-history.jsonl")
        if history:
            rows = map(json.loads, history["content"])
            self.server.history |= dict(enumerate(rows, history["offset"]))
        self._answer({"exitcode": None, "limits": {}})

    def _query(self, request: dict[str, Any]) -> dict[str, Any]:
        query, values = request["query"], request.get("variables") or {}
        if "upsertBucket" in query:
            new = not self.server.runs
            self.server.runs.append(values)
            name = self.server.runs[0]["name"]
            bucket = {"id": "r", "name": name, "displayName": name, "project": PROJECT}
            bucket |= {"config": "{}", "historyLineCount": len(self.server.history)}
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if "createArtifact(" in query:
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if "createRunFiles" in query:
            urls = [{"name": n, "uploadUrl": f"{self.server.address}/f"} for n in values["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": urls}}
        if "bucket(name" in query:
            return {"model": {"id": "m", **PROJECT, "bucket": self._resumed()}}
        if "query ArtifactType(" in query:
            return {"project": None}
        versions = {"max_cli_version": "9.0.0"}
        info = {"cliVersionInfo": versions, "latestLocalVersionInfo": None, "features": []}
        return {"viewer": USER, "serverInfo": info}

    def _resumed(self) -> dict[str, Any] | None:
        """What the server knows of the run."""
        if not self.server.runs:
            return None
        history = self.server.history
        tail = [json.dumps(history[max(history)])] if history else []
        counts = {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"summaryMetrics": "{}", "config": "{}", "wandbConfig": "{}", "eventsTail": "[]"}
        return {"name": "run", "tags": [], "historyTail": json.dumps(tail), **counts, **texts}


@contextmanager
def wandb_server(mood: str) -> Iterator[Server]:
    """The server while the context is open."""
    with Server(mood) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join(5)
