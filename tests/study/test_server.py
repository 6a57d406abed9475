"""The server: a whole session over its routes, pages for people, and the researcher's page."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image
from small_study import METHODS, PROTOCOL, Links, make_study
from web import Visitor, annotator, submission

from anyscene.cli import main
from anyscene.study.records import Answer
from anyscene.study.store import IMAGES, Store


def test_a_whole_session_is_stored_as_it_was_given(study: tuple[Path, Links]):
    visitor = Visitor.of(study[0]).enter(study[1].people["a01"])
    assert visitor.get("/api/task/0").status_code == 403  # consent comes first
    visitor.post("/api/consent", {})
    state = visitor.get("/api/state").json()
    assert state == {"annotator": "a01", "consented": True, "total": 10, "parts": 2, "open": 0}
    given = {}
    for position in range(state["total"]):
        task = visitor.task(position)
        values = {"quality": 1 + position % 4, "fidelity": 4 - position % 4}
        answered = visitor.post("/api/answer", submission(task, answers=values))
        assert answered.json()["new"] is True
        given[position] = values
    assert visitor.get("/api/state").json()["open"] == state["total"]
    assert visitor.get(f"/api/task/{state['total']}").status_code == 404
    stored: dict[int, dict[str, int]] = {}
    for answer in Store(study[0]).answers():
        stored.setdefault(answer.position, {})[answer.criterion] = answer.value
    assert stored == given


def test_an_answer_can_be_changed_and_comes_back_as_changed(study: tuple[Path, Links]):
    visitor = annotator(*study)
    visitor.post("/api/answer", submission(visitor.task(0)))
    task = visitor.task(0)
    assert task["answers"] == {"quality": 2, "fidelity": 4}
    assert visitor.post("/api/answer", submission(task, answers={"quality": 1, "fidelity": 1}))
    assert visitor.task(0)["answers"] == {"quality": 1, "fidelity": 1}
    late = visitor.post("/api/answer", submission(task))
    assert (late.status_code, late.json()["error"]) == (
        409,
        "this item was answered meanwhile in another window",
    )


def test_pictures_are_those_of_the_task(study: tuple[Path, Links]):
    visitor = annotator(*study)
    task, described = Store(study[0]).tasks("a01")[0], visitor.task(0)
    own = (study[0] / IMAGES / f"{task.image}.png").read_bytes()
    (url,) = described["images"]
    response = visitor.get(url)
    assert response.content == own
    assert response.headers["content-type"] == "image/png"
    assert "immutable" in response.headers["cache-control"]
    with Image.open(io.BytesIO(visitor.get(described["foreground"]).content)) as image:
        assert image.mode == "RGBA"


def test_a_pair_stands_on_the_sides_that_its_task_says(tmp_path: Path):
    folder, links = make_study(tmp_path, replace(PROTOCOL, kind="pairwise"))
    visitor = annotator(folder, links)
    swapped = set()
    for position, task in enumerate(Store(folder).tasks("a01")):
        described = visitor.task(position)
        sides = [task.image_b, task.image] if task.swapped else [task.image, task.image_b]
        for url, name in zip(described["images"], sides, strict=True):
            assert visitor.get(url).content == (folder / IMAGES / f"{name}.png").read_bytes()
        visitor.post("/api/answer", submission(described, answers={"quality": -1, "fidelity": 1}))
        swapped.add(task.swapped)
    assert swapped == {True, False}


def test_the_page_holds_the_protocol_s_words_and_labels_every_control(study: tuple[Path, Links]):
    page = annotator(*study).get("/").text
    assert f'<body data-study="{Store(study[0]).identity}" data-annotator="a01">' in page
    for words in ("A small study", "You may stop at any time.", "We store your answers."):
        assert words in page
    for criterion in PROTOCOL.criteria:
        assert criterion.question in page
        assert f"<legend>{criterion.title}</legend>" in page
    inputs = re.findall(r"<label><input type=\"radio\"[^>]*><span>(.*?)</span></label>", page)
    assert len(inputs) == page.count("<input") == 2 * 4
    assert all(re.fullmatch(r"<b>\d</b> \w+", text) for text in inputs)
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'aria-describedby="([^"]+)"', page)) <= set(identifiers)
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page))
    assert not re.search(r"\bstyle=|<style|\bon\w+=|<script(?! type=\"module\" src=)", page)
    assert not re.search(r"https?://", page)


def test_words_of_a_protocol_are_not_markup(tmp_path: Path):
    protocol = replace(PROTOCOL, consent="<script>alert(1)</script> & more", title='"><b>')
    page = annotator(*make_study(tmp_path, protocol)).get("/").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page


def test_examples_and_scripts_are_served(study: tuple[Path, Links]):
    visitor = annotator(*study)
    page = visitor.get("/").text
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        response = visitor.get(path)
        assert response.status_code == 200, path
        assert response.content
    assert page.count('src="/example/') == 2 * 4


def test_the_researcher_sees_progress_pace_and_checks(study: tuple[Path, Links]):
    folder, links = study
    visitor = annotator(folder, links)
    for position in range(10):
        visitor.post("/api/answer", submission(visitor.task(position), seconds=0.4))
    researcher = Visitor.of(folder).enter(links.admin, "admin")
    page = researcher.get("/admin").text
    assert "10 of 30 items answered by 1 of 3 people, 1 finished" in " ".join(page.split())
    row = re.findall(r"<tr>\n<th scope=\"row\">a01</th>.*?</tr>", page, re.DOTALL)[0]
    assert "finished" in row
    assert "0.4 <em>too fast</em>" in row
    assert "1 of 1 <em>too many</em>" in row
    assert "not opened" in page


def test_the_export_has_every_answer_with_its_method(study: tuple[Path, Links]):
    folder, links = study
    visitor = annotator(folder, links)
    for position in range(10):
        visitor.post("/api/answer", submission(visitor.task(position)))
    response = Visitor.of(folder).enter(links.admin, "admin").get("/admin/answers.csv")
    assert "small-answers.csv" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [*rows[0]] == [field.name for field in fields(Answer)]
    assert len(rows) == 10 * 2
    assert {row["method"] for row in rows} == {*METHODS, ""}


@pytest.fixture
def taken_port() -> Iterator[int]:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_serve_tells_what_it_cannot_do_in_one_line(
    study: tuple[Path, Links], taken_port: int, tmp_path: Path, capsys
):
    assert main(["study", "serve", str(study[0]), "--port", str(taken_port)]) == 2
    assert f"cannot listen on 127.0.0.1:{taken_port} (Address already in use)" in (
        capsys.readouterr().err
    )
    for host, reason in (("no host", "Name or service not known"), ("192.0.2.1", "Cannot assign")):
        assert main(["study", "serve", str(study[0]), "--host", host]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"anyscene: cannot listen on {host}:8000 ({reason}")
        assert told.endswith("); give --host\n")
    for port in ("65536", "-1", "many"):
        with pytest.raises(SystemExit, match="2"):
            main(["study", "serve", str(study[0]), "--port", port])
        assert f"{port!r} must be a whole number from 0 to 65535" in capsys.readouterr().err
    assert main(["study", "serve", str(tmp_path), "--port", "0"]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_what_a_study_needs_is_told_where_it_is_missing(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("anyscene.commands.study.EXTRA", ("no_such_package",))
    assert main(["study", "serve", str(tmp_path)]) == 2
    assert "pip install 'anyscene[study]'" in capsys.readouterr().err
