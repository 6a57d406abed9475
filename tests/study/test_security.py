"""What the server must not do: let somebody in, tell a method, take a forged or repeated answer."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from small_study import METHODS, Links
from web import OWN, URL, Visitor, annotator, submission

from anyscene.cli import build_parser
from anyscene.study.guard import HEADERS
from anyscene.study.server import Site
from anyscene.study.store import FILE_NAME, Store


def answers_in(folder: Path) -> int:
    return len(Store(folder).answers())


def addresses(task: str) -> list[str]:
    """One of every route that reads."""
    image = [f"/image/{task}/{slot}" for slot in ("first", "second", "foreground")]
    private = ["/", "/api/state", "/api/task/0", *image, "/example/0/image", "/admin"]
    return [*private, "/admin/answers.csv"]


def test_the_list_of_addresses_has_every_route(study: tuple[Path, Links]):
    """So that no route is forgotten below."""
    patterns = {route.path for route in Site(study[0], URL).routes()}
    open_ones = {"/s/{token}", "/admin/{token}", "/static/{name}"}
    posts = {"/api/consent", "/api/answer"}
    own = {re.sub(r"/image/\w+/\w+", "/image/{task}/{slot}", path) for path in addresses("f" * 32)}
    own = {path.replace("task/0", "task/{position}") for path in own}
    own = {path.replace("example/0/image", "example/{number}/{kind}") for path in own}
    assert patterns == own | open_ones | posts


def test_without_a_link_nobody_gets_in(study: tuple[Path, Links]):
    task = Store(study[0]).tasks("a01")[0].id
    strangers = [Visitor.of(study[0]), Visitor.of(study[0]), Visitor.of(study[0])]
    strangers[1].client.cookies.set("study_small", "x" * 32)
    strangers[2].client.cookies.set("study_small", study[1].admin)
    for stranger in strangers:
        for path in addresses(task):
            assert stranger.get(path).status_code == 403, path
        assert stranger.post("/api/consent", {}).status_code == 403
        assert stranger.post("/api/answer", {}).status_code == 403
        assert stranger.get("/s/" + "x" * 32).status_code == 404
        assert stranger.get("/admin/" + "x" * 32).status_code == 404
    assert answers_in(study[0]) == 0


def test_links_open_their_own_door_alone(study: tuple[Path, Links]):
    folder, links = study
    assert Visitor.of(folder).get(f"/admin/{links.people['a01']}").status_code == 404
    assert Visitor.of(folder).get(f"/s/{links.admin}").status_code == 404
    visitor, researcher = annotator(folder, links), Visitor.of(folder).enter(links.admin, "admin")
    assert visitor.get("/admin").status_code == 403
    assert visitor.get("/admin/answers.csv").status_code == 403
    assert researcher.get("/").status_code == 403
    hashed = (folder / FILE_NAME).read_bytes()
    for name in re.findall(rb"[0-9a-f]{64}", hashed):  # what the data base holds opens nothing
        assert Visitor.of(folder).get(f"/s/{name.decode()}").status_code == 404


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(study: tuple[Path, Links]):
    token = study[1].people["a01"]
    plain = Visitor.of(study[0]).get(f"/s/{token}").headers["set-cookie"]
    assert "HttpOnly" in plain
    assert "SameSite=lax" in plain
    assert "Secure" not in plain
    secure = Visitor.of(study[0], "https://study.example.org").get(f"/s/{token}")
    assert "Secure" in secure.headers["set-cookie"]
    assert secure.headers["location"] == "/"


def everything(folder: Path, links: Links) -> Iterator[Response]:
    """Every response that an annotator can get in a whole session, and refusals."""
    visitor = Visitor.of(folder)
    yield visitor.get(f"/s/{links.people['a01']}")
    yield visitor.post("/api/consent", {})
    for path in ("/", "/api/state", "/admin", "/nothing", "/static/study.js", "/static/x"):
        yield visitor.get(path)
    for position in range(10):
        response = visitor.get(f"/api/task/{position}")
        yield response
        task = response.json()
        for url in (*task["images"], task["foreground"], f"/image/{task['task']}/none"):
            yield visitor.get(url)
        body = submission(task)
        yield visitor.post("/api/answer", body)
        yield visitor.post("/api/answer", body)
        yield visitor.post("/api/answer", {**body, "seconds": 1.0})
        yield visitor.post("/api/answer", submission(task))
        yield visitor.get(f"/api/task/{position}")
    for number in range(5):
        yield visitor.get(f"/example/{number}/image")
    yield visitor.get("/api/task/10")
    yield visitor.post("/api/answer", {})


def test_no_response_to_an_annotator_tells_a_method_seed_or_path(study: tuple[Path, Links]):
    folder, links = study
    responses = list(everything(folder, links))
    assert len(responses) > 100
    pictures = Store(folder).pictures().values()
    secrets = {*METHODS, "images_of_", "manifest", "scene-", "canvas-", str(folder), ".png"}
    secrets |= {picture.name for picture in pictures} | {one.foreground for one in pictures}
    for response in responses:
        told = str(response.headers) + response.content.decode("latin-1")
        assert not [secret for secret in secrets if secret in told], response.url
        if response.headers.get("content-type") == "application/json":
            assert not {"seed", "method", "expected", "repeat_of", "swapped"} & keys(
                response.json()
            )


def keys(value: Any) -> set[str]:
    """All keys in a JSON value."""
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set()


def test_responses_to_two_methods_differ_in_nothing_but_pixels(study: tuple[Path, Links]):
    folder, links = study
    visitor = annotator(folder, links)
    pictures, seen = Store(folder).pictures(), {}
    for task in Store(folder).tasks("a01"):
        described = visitor.task(task.position)
        response = visitor.get(described["images"][0])
        method = pictures[task.image].method
        if method:
            seen.setdefault(method, set()).add((tuple(response.headers.items()), len(described)))
        visitor.post("/api/answer", submission(described))
    assert seen.keys() == {*METHODS}
    assert len(set.union(*seen.values())) == 1


def test_every_response_carries_the_headers(study: tuple[Path, Links]):
    for response in everything(*study):
        for name, value in HEADERS.items():
            assert response.headers[name] == value, response.url
        assert "cache-control" in response.headers
    wrong = Visitor.of(study[0]).client.request("DELETE", "/api/answer")
    assert wrong.status_code == 405
    assert wrong.headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Study": "1"},
        {"Origin": URL},
        {"Origin": "null", "X-Study": "1"},
        {"Origin": "https://evil.example", "X-Study": "1"},
        {"Origin": "http://testserver.evil.example", "X-Study": "1"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_cannot_answer(headers: dict[str, str], visitor: Visitor):
    body = submission(visitor.task(0))
    assert visitor.post("/api/answer", body, headers).status_code == 403
    assert visitor.post("/api/consent", {}, headers).status_code == 403
    assert visitor.task(0)["answers"] is None


@pytest.mark.parametrize("end", [".org", ".Org/", ".org:443"])
def test_behind_a_proxy_the_address_that_people_see_counts(end: str, study: tuple[Path, Links]):
    """Browsers name it in small letters and without the port that https has by itself."""
    words = ["study", "serve", str(study[0]), "--url", f"https://study.example{end}"]
    visitor = Visitor.of(study[0], build_parser().parse_args(words).url)
    visitor.client.cookies.set("study_small", study[1].people["a01"])
    own = {**OWN, "Origin": "https://study.example.org"}
    assert visitor.post("/api/consent", {}, own).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_form_of_another_site_is_no_answer(kind: str, visitor: Visitor):
    headers = {**OWN, "Content-Type": kind}
    response = visitor.client.post("/api/answer", content="{}", headers=headers)
    assert response.status_code == 415


def test_another_s_task_can_be_neither_seen_nor_answered(study: tuple[Path, Links]):
    folder, links = study
    visitor, other = annotator(folder, links), annotator(folder, links, "a02")
    task = other.task(0)
    assert visitor.post("/api/answer", submission(task)).status_code == 404
    assert visitor.get(task["images"][0]).status_code == 404
    assert visitor.get(task["foreground"]).status_code == 404
    ahead = Store(folder).tasks("a01")[3].id
    assert visitor.get(f"/image/{ahead}/first").status_code == 404  # not reached yet
    assert answers_in(folder) == 0


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/study.css%00.png",
        "/image/../../study.sqlite",
        "/image/%2e%2e/study.sqlite",
        "/image/..%2f..%2fstudy.sqlite/first",
        "/image/{task}/..%2f..%2f..%2flinks.csv",
        "/example/0/..%2f..%2flinks.csv",
        "/example/-1/image",
        "/example/99/image",
        "/example/1e0/image",
        "/example/٣/image",
        "/api/task/-1",
        "/api/task/99999999999999999999",
        "/links.csv",
        "/study.sqlite",
    ],
)
def test_no_path_leads_out_of_the_study(path: str, visitor: Visitor):
    response = visitor.get(path.format(task=visitor.task(0)["task"]))
    assert response.status_code == 404
    assert len(response.content) < 1000
