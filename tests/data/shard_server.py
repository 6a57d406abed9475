"""A small HTTP server of a folder that misbehaves as it is told."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class ShardServer:
    """What the server does and did."""

    url: str = ""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """By file name, what happens to its next requests: 500, hang, drip, cut, short or flip."""
    requests: Counter[str] = field(default_factory=Counter)
    """How often each file was asked for."""
    closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(folder: Path) -> Iterator[ShardServer]:
    """Serve a folder, with listings, at a free port of this machine."""
    state = ShardServer()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            state.requests[name] += 1
            faults = state.faults.get(name, [])
            if not faults:
                super().do_GET()
                return
            fault = faults.pop(0)
            if fault == "500":
                self.send_error(500)
                return
            data = (folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data) // (2 if fault == "short" else 1)))
            self.end_headers()
            self._misbehave(fault, data)

        def _misbehave(self, fault: str, data: bytes) -> None:
            half = len(data) // 2
            match fault:
                case "hang":
                    state.closing.wait()
                case "drip":
                    for place in range(len(data)):
                        if state.closing.wait(0.05):
                            break
                        self.wfile.write(data[place : place + 1])
                case "cut" | "short":
                    self.wfile.write(data[:half])
                case "flip":
                    self.wfile.write(data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.closing.set()
        server.shutdown()
        server.server_close()
