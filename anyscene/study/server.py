"""`anyscene study serve`: pages, JSON and images for annotators, a page for the researcher.

Who opens a private link gets its token as a cookie; the data base has the token's hash alone. All
else that an annotator may ask for is found through that cookie; no route takes a path.
"""

import errno
import socket
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from anyscene.errors import InputError
from anyscene.study.guard import SecureHeaders, check_origin, parse_submission, read_json
from anyscene.study.pages import admin_page, answers_csv, message_page, study_page
from anyscene.study.store import IMAGES, Refused, Store

COOKIE_SECONDS = 180 * 24 * 3600
CACHED = {"cache-control": "private, max-age=86400, immutable"}
STATIC = {
    "study.js": "text/javascript",
    "connection.js": "text/javascript",
    "zoom.js": "text/javascript",
    "study.css": "text/css",
    "icon.svg": "image/svg+xml",
}
NO_LINK = "This study is open by private link alone. Please open the link that was sent to you."


class Site:
    """The routes of one study. Those without `async` run in threads."""

    def __init__(self, folder: Path, url: str) -> None:
        self.store = Store(folder)
        self.images = folder / IMAGES
        self.url = url  # that people see; https makes cookies secure
        own = files("anyscene.study") / "static"
        self.static = {name: (own / name).read_bytes() for name in STATIC}
        self.cookie = f"study_{self.store.protocol.name}"
        self.admin_cookie = f"admin_{self.store.protocol.name}"

    def routes(self) -> list[Route]:
        """Every address that the server answers."""
        return [
            Route("/", self.page),
            Route("/s/{token}", self.open_link),
            Route("/api/state", self.state),
            Route("/api/consent", self.consent, methods=["POST"]),
            Route("/api/task/{position}", self.task),
            Route("/api/answer", self.answer, methods=["POST"]),
            Route("/image/{task}/{slot}", self.image),
            Route("/example/{number}/{kind}", self.example),
            Route("/static/{name}", self.static_file),
            Route("/admin", self.admin),
            Route("/admin/answers.csv", self.export),
            Route("/admin/{token}", self.open_admin),
        ]

    def annotator(self, request: Request) -> str:
        """Whose cookie this is. Raises Refused without one."""
        name = self.store.annotator_of(request.cookies.get(self.cookie, ""))
        if name is None:
            raise Refused(403, NO_LINK)
        return name

    def open_link(self, request: Request) -> Response:
        token = request.path_params["token"]
        name = self.store.annotator_of(token)
        if name is None:
            raise Refused(404, "This is no link of this study. Please copy it again, whole.")
        self.store.opened(name)
        return self._enter("/", self.cookie, token)

    def page(self, request: Request) -> Response:
        name = self.annotator(request)
        return HTMLResponse(study_page(self.store.protocol, self.store.identity, name))

    def state(self, request: Request) -> Response:
        name = self.annotator(request)
        tasks = self.store.tasks(name)
        return JSONResponse(
            {
                "annotator": name,
                "consented": self.store.has_consented(name),
                "total": len(tasks),
                "parts": tasks[-1].part + 1,
                "open": self.store.first_open(name),
            }
        )

    async def consent(self, request: Request) -> Response:
        check_origin(request, self.url)
        name = await run_in_threadpool(self.annotator, request)
        await read_json(request)
        await run_in_threadpool(self.store.consent, name)
        return JSONResponse({"consented": True})

    def task(self, request: Request) -> Response:
        """An item as it stands on the screen, and what the person answered before."""
        name = self.annotator(request)
        if not self.store.has_consented(name):
            raise Refused(403, "consent comes first")
        task, last = self.store.task_at(name, _number(request.path_params["position"]))
        slots = ["first"] if task.image_b is None else ["first", "second"]
        picture = self.store.picture(task.image)
        return JSONResponse(
            {
                "task": task.id,
                "position": task.position,
                "part": task.part,
                "prompt": picture.prompt,
                "width": picture.width,
                "height": picture.height,
                "foreground": f"/image/{task.id}/foreground",
                "images": [f"/image/{task.id}/{slot}" for slot in slots],
                "answers": last.answers if last else None,
                "submission": last.id if last else None,
            }
        )

    async def answer(self, request: Request) -> Response:
        """Put a submission on disk, and only then say so."""
        check_origin(request, self.url)
        name = await run_in_threadpool(self.annotator, request)
        submission = parse_submission(await read_json(request), self.store.protocol)
        new = await run_in_threadpool(self.store.submit, name, submission)
        return JSONResponse({"stored": submission.id, "new": new})

    def image(self, request: Request) -> Response:
        name = self.annotator(request)
        task = self.store.task(name, request.path_params["task"])
        first, second = task.image, task.image_b
        slots = {"foreground": self.store.picture(first).foreground}
        if second is None:
            slots["first"] = first
        else:
            slots["first"], slots["second"] = (second, first) if task.swapped else (first, second)
        if request.path_params["slot"] not in slots:
            raise Refused(404, "there is no such image")
        return self._png(slots[request.path_params["slot"]])

    def example(self, request: Request) -> Response:
        self.annotator(request)
        number, kind = _number(request.path_params["number"]), request.path_params["kind"]
        examples = self.store.protocol.examples
        if number >= len(examples) or kind not in ("foreground", "image"):
            raise Refused(404, "there is no such example")
        return self._png(getattr(examples[number], kind))

    def static_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise Refused(404, "there is no such file")
        headers = {"cache-control": "no-cache"}
        return Response(self.static[name], media_type=STATIC[name], headers=headers)

    def open_admin(self, request: Request) -> Response:
        token = request.path_params["token"]
        if not self.store.is_admin(token):
            raise Refused(404, "This is no link of this study.")
        return self._enter("/admin", self.admin_cookie, token)

    def admin(self, request: Request) -> Response:
        self._check_admin(request)
        store = self.store
        return HTMLResponse(admin_page(store.protocol, store.progress(), store.methods))

    def export(self, request: Request) -> Response:
        self._check_admin(request)
        name = f"{self.store.protocol.name}-answers.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(answers_csv(self.store.answers()), media_type="text/csv", headers=headers)

    def _check_admin(self, request: Request) -> None:
        if not self.store.is_admin(request.cookies.get(self.admin_cookie, "")):
            raise Refused(403, NO_LINK)

    def _enter(self, path: str, cookie: str, token: str) -> Response:
        """To a page, with a cookie that scripts and other sites cannot use."""
        response = RedirectResponse(path, status_code=303)
        response.set_cookie(
            cookie,
            token,
            max_age=COOKIE_SECONDS,
            path=path,
            secure=urlsplit(self.url).scheme == "https",
            httponly=True,
            samesite="lax",  # strict would not come along when the link is in a mail
        )
        return response

    def _png(self, name: str) -> Response:
        data = (self.images / f"{name}.png").read_bytes()
        return Response(data, media_type="image/png", headers=CACHED)


def build_app(folder: Path, url: str) -> ASGIApp:
    """The application of a study folder; `url` is the address that people see."""
    handlers: Any = {Refused: _refuse, HTTPException: _refuse_http}
    return SecureHeaders(Starlette(routes=Site(folder, url).routes(), exception_handlers=handlers))


def serve(folder: Path, host: str, port: int, url: str | None) -> None:
    """Serve a study until interrupted.

    Raises:
        InputError: no study, or an address that is taken.
    """
    try:
        listener = socket.create_server((host, port), backlog=512)
    except OSError as error:
        reason = str(error.strerror).partition(" (while ")[0]  # `create_server` adds the address
        fix = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise InputError(f"cannot listen on {host}:{port} ({reason}); give {fix}") from None
    # asyncio does so only on sockets that name their protocol; without it some answers wait 40 ms
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        here = f"http://{host}:{listener.getsockname()[1]}"
        app = build_app(folder, url or here)
        config = uvicorn.Config(
            app,
            access_log=False,  # private links are in the paths
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )
        print(f"serving {folder} at {here}; stop with Ctrl+C", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


def _refuse(request: Request, error: Refused) -> Response:
    """One line, as a page where a person looks and as JSON where a script does."""
    if request.url.path.startswith(("/api/", "/image/", "/example/", "/static/")):
        return JSONResponse({"error": str(error)}, status_code=error.status)
    return HTMLResponse(message_page("Sorry", str(error)), status_code=error.status)


def _refuse_http(request: Request, error: HTTPException) -> Response:
    response = _refuse(request, Refused(error.status_code, error.detail))
    response.headers.update(error.headers or {})
    return response


def _number(text: str) -> int:
    """A position from an address."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise Refused(404, "there is no such item")
    return int(text)
