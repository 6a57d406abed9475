"""A study in the place of another: never where an answer would be lost."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_study import PROTOCOL, make_plan, read_links

from anyscene.errors import InputError
from anyscene.study.create import check_out, create_study
from anyscene.study.records import Submission
from anyscene.study.store import Refused, Store

ANSWERS = {"quality": 1, "fidelity": 2}


def answer_first(store: Store) -> None:
    """The first item of the first person."""
    store.consent("a01")
    task = store.tasks("a01")[0]
    store.submit("a01", Submission("0" * 32, task.id, ANSWERS, 1.0, None))
    store.close()


def test_a_study_is_not_replaced_by_accident_and_never_with_answers(tmp_path: Path):
    plan = make_plan(tmp_path)
    out = tmp_path / "study"
    create_study(plan, out, url="http://x", protocol_folder=tmp_path)
    first, identity = read_links(out / "links.csv"), Store(out).identity
    with pytest.raises(InputError, match="pass --overwrite"):
        check_out(out, overwrite=False)
    check_out(out, overwrite=True)
    other = replace(plan, secret=bytes(32))
    create_study(other, out, url="http://x", protocol_folder=tmp_path)
    assert read_links(out / "links.csv") != first
    assert Store(out).identity != identity  # what a browser keeps of the old one is not for this
    answer_first(Store(out))
    with pytest.raises(InputError, match="1 answered items"):
        check_out(out, overwrite=True)
    (tmp_path / "other").mkdir()
    check_out(tmp_path / "other", overwrite=False)
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="holds no study"):
        check_out(tmp_path / "other", overwrite=True)


def test_a_study_that_got_its_first_answer_while_another_was_made_is_not_replaced(tmp_path: Path):
    """Making one takes minutes, and its server may run: the answer was confirmed."""
    plan, out = make_plan(tmp_path), tmp_path / "study"
    create_study(plan, out, url="http://x", protocol_folder=tmp_path)
    check_out(out, overwrite=True)
    answer_first(Store(out))
    with pytest.raises(InputError, match="has 1 answered items by now"):
        create_study(plan, out, url="http://x", protocol_folder=tmp_path)
    assert len(Store(out).answers()) == len(PROTOCOL.criteria)
    assert not [*tmp_path.glob(".*.part")]


def test_a_server_of_a_replaced_study_takes_no_answer_that_would_be_lost(tmp_path: Path):
    plan, out = make_plan(tmp_path), tmp_path / "study"
    create_study(plan, out, url="http://x", protocol_folder=tmp_path)
    token = read_links(out / "links.csv").people["a01"]
    serving = Store(out)
    serving.consent("a01")
    task = serving.tasks("a01")[0]
    create_study(plan, out, url="http://x", protocol_folder=tmp_path)
    assert serving.annotator_of(token) is None
    with pytest.raises(Refused):
        serving.submit("a01", Submission("0" * 32, task.id, ANSWERS, 1.0, None))
    assert len(Store(out).people()) == PROTOCOL.annotators


def test_a_study_may_be_made_in_the_folder_one_is_in(tmp_path: Path, monkeypatch):
    plan, here = make_plan(tmp_path), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    create_study(plan, Path(), url="http://x", protocol_folder=tmp_path)
    assert len(Store(here).people()) == PROTOCOL.annotators
