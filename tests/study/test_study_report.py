"""The report of a study: its numbers, what it says where there are none, and its files."""

import base64
import re
from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest
from report_run import Page
from simulated import METHODS, PROTOCOL, TRUTH, imageless_folder, simulated_frame

from anyscene.cli import main
from anyscene.errors import InputError
from anyscene.study.analysis import Analysis, analyse, analyse_study
from anyscene.study.demo import answer_all, submission
from anyscene.study.protocol import Exclusion
from anyscene.study.ratings import counted, ratings_frame
from anyscene.study.report import write_study_report
from anyscene.study.report_tables import MINUS, agreement_table, comparison_table
from anyscene.study.report_words import exclusion
from anyscene.study.simulate import Raters
from anyscene.study.statistics import differences, method_means
from anyscene.study.store import Store

CARELESS = Raters(TRUTH, seed=3, careless=("a02",))
FILES = {
    "agreement.csv",
    "comparisons.csv",
    "comparisons.svg",
    "consistency.csv",
    "methods.svg",
    "people.csv",
    "ratings.csv",
    "report.html",
    "report.md",
    "table.csv",
}


def answered(folder, protocol=PROTOCOL, raters=CARELESS, methods=METHODS):
    answer_all(imageless_folder(folder, protocol, methods, raters.seed), raters)
    return folder


def answers_of(study):
    with closing(Store(study)) as store:
        return ratings_frame(store.answers(), METHODS)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A whole study with its report. Read only."""
    folder = answered(tmp_path_factory.mktemp("studies") / "study")
    write_study_report(folder)
    return folder


@pytest.fixture(scope="module")
def html(study):
    return (study / "report/report.html").read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def markdown(study):
    return (study / "report/report.md").read_text()


def test_page_is_whole_and_fetches_and_runs_nothing(html, page):
    assert page.open == []
    assert not {"script", "iframe", "object"} & {tag for tag, _, _ in page.attributes}
    assert re.search("https?:|//|@import", re.sub("data:image/[^\"']*", "", html)) is None
    assert "A &lt;simulated&gt; study" in html


def test_table_has_every_mean_with_its_interval(study, page, markdown):
    means = method_means(counted(answers_of(study)), PROTOCOL.scale)
    for method in METHODS:
        own = means[means["method"] == method].to_dict("records")
        cells = [f"{row['mean']:.2f}|{row['low']:.2f} to {row['high']:.2f}" for row in own]
        assert page.rows[method] == cells
        line = " | ".join(cell.replace("|", " (") + ")" for cell in cells)
        assert f"| {method} | {line} |" in markdown


def test_differences_have_intervals_and_both_p(study, page):
    first = differences(counted(answers_of(study)), PROTOCOL.seed).iloc[0]
    cell = page.rows[f"dreambooth {MINUS} custom"][0].replace(MINUS, "-")
    assert cell == (
        f"{first['difference']:.2f}|{first['low']:.2f} to {first['high']:.2f}; "
        f"p {first['p']:.3f}, corrected {first['p_holm']:.3f}"
    )
    assert page.says("With 8 people no p can be below 0.008, nor the smallest corrected one below")
    assert page.says("corrected by Holm for the 6 comparisons of a criterion")


def test_few_foregrounds_too_bound_what_p_can_be():
    """Labels are swapped for whole foregrounds as well, and the larger p counts."""
    protocol = replace(PROTOCOL, foregrounds=5, sets=5, annotators=12, ratings_per_image=6)
    analysis = analyse(simulated_frame(protocol), protocol)
    assert min(analysis.comparisons["p"]) == 2 / 2**5
    told = comparison_table(analysis, protocol).remark
    assert "With 5 foregrounds no p can be below 0.062, nor the smallest corrected one" in told
    assert told.endswith("below 0.375.")


def test_the_excluded_are_named_with_the_reason_and_numbers_are_given_without_them(page, markdown):
    assert page.says("1 of 8 people is excluded; every number is given with and without them.")
    assert page.says("fails more than 1 of 3 attention checks, or takes less than 2 s an item")
    assert page.rows["a02"][-1].startswith("failed ")
    assert page.rows["a02"][-1].endswith("a median of 1.0 s an item, less than 2 s")
    assert page.rows["a01"][-1] == "no"
    assert page.says("Results, everyone")
    assert page.says("Results, without the excluded")
    assert page.says("With 7 people no p can be below 0.016")
    assert markdown.count("### Mean rating, 1 to 4") == 2


def test_csv_holds_both_analyses_unrounded_and_every_answer(study):
    folder = study / "report"
    table = pd.read_csv(folder / "table.csv").set_index(["analysis", "criterion", "method"])
    frame = answers_of(study)
    own = counted(frame[frame["annotator"] != "a02"])
    means = method_means(own, PROTOCOL.scale)
    for row in means.to_dict("records"):
        found = table.loc["without the excluded", row["criterion"], row["method"]]
        assert found["mean"] == pytest.approx(row["mean"], rel=1e-12)
        assert found["high"] == pytest.approx(row["high"], rel=1e-12)
    assert len(table) == 2 * 12
    ratings = pd.read_csv(folder / "ratings.csv")
    assert ratings["value"].tolist() == frame["value"].tolist()
    assert ratings.columns.tolist() == frame.columns.tolist()
    assert len(pd.read_csv(folder / "comparisons.csv")) == 2 * 18
    assert len(pd.read_csv(folder / "people.csv")) == 8


def test_plots_are_files_and_in_the_page(study, page):
    for (_, data), name in zip(page.images, ("methods", "comparisons"), strict=True):
        assert data == (study / f"report/{name}.svg").read_bytes()
        assert data.count(b"<svg") == 1


def test_the_same_answers_give_the_same_bytes(study):
    folder = study / "report"
    assert {path.name for path in folder.iterdir()} == FILES
    before = {name: (folder / name).read_bytes() for name in FILES}
    assert write_study_report(study) == folder / "report.html"
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_terms_are_explained(page):
    for words in (
        "with other people and other foregrounds",
        "Several foregrounds have the same prompts.",
        "swapped at random for whole people, and again for whole foregrounds",
        "Attention checks and second ratings of the same item do not count.",
    ):
        assert page.says(words)


def test_an_unfinished_study_says_so_and_what_is_not_computed(tmp_path):
    protocol = replace(PROTOCOL, repeats=0)
    study = imageless_folder(tmp_path / "study", protocol, METHODS, seed=1)
    with pytest.raises(InputError, match="has no ratings yet"):
        write_study_report(study)
    assert main(["study", "report", str(study)]) == 2
    answer_all(study, Raters(TRUTH, seed=1), people=("a01",))
    page = Page(write_study_report(study).read_text())
    assert page.open == []
    assert page.says("Preliminary: 357 of 408 items are not answered yet.")
    assert page.rows["dreambooth"][0].endswith("|no interval: ratings of one person only")
    assert page.rows["Quality"] == [
        "not computed|no item is rated by two people",
        "not computed|no item was rated twice",
        "",
        "",
    ]
    assert page.rows["a08"] == ["0", "", "", "no answers"]
    assert page.says("ratings of one person only; ratings of one person only")


def test_where_everybody_is_excluded_there_is_no_second_analysis(study):
    strict = replace(PROTOCOL, exclusion=Exclusion(min_median_seconds=60.0))
    results = analyse_study(answers_of(study), strict)
    assert results.kept is None
    assert "Everybody is excluded" in exclusion(strict, results)


@pytest.mark.parametrize("kind", ["rating", "pairwise"])
def test_after_one_answer_hardly_anything_is_computed(kind, tmp_path):
    protocol = replace(PROTOCOL, kind=kind)
    folder = imageless_folder(tmp_path / "study", protocol, METHODS, seed=1)
    with closing(Store(folder)) as store:
        task = store.tasks("a01")[0]
        store.consent("a01")
        store.submit("a01", submission(task, dict.fromkeys(TRUTH, 1), seconds=5.0))
        shown = {store.picture(name).method for name in (task.image, task.image_b) if name}
    page = Page(write_study_report(folder).read_text())
    assert page.open == []
    known = {"rating": "1.00|no interval: ratings of one", "pairwise": "not computed|some methods"}
    for method in METHODS:
        expected = known[kind] if method in shown else "not computed|no ratings"
        assert page.rows[method][0].startswith(expected)
    assert not page.says("nan")


def test_a_report_is_of_one_moment_while_answers_come_in(tmp_path, monkeypatch):
    """Who answers first between two readings is counted in both or in none."""
    folder = imageless_folder(tmp_path / "study", PROTOCOL, METHODS, seed=1)
    raters, read = Raters(TRUTH, seed=1), Store.answers
    answer_all(folder, raters, people=("a01",))

    def answers_then_more(store):
        found = read(store)
        answer_all(folder, raters, people=("a02",))
        return found

    monkeypatch.setattr(Store, "answers", answers_then_more)
    page = Page(write_study_report(folder).read_text())
    assert page.rows["a02"] == ["0", "", "", "no answers"]
    assert page.says("Preliminary: 385 of 440 items are not answered yet.")


def test_a_number_that_rounds_to_zero_has_no_minus():
    alpha = {"criterion": "quality", "alpha": -0.001, "missing": "", "items": 5, "people": 2}
    nothing = pd.DataFrame()
    analysis = Analysis(nothing, nothing, pd.DataFrame([alpha]), nothing)
    assert agreement_table(analysis, PROTOCOL).rows[0][1] == ("0.00", "5 items, 2 people")


@pytest.fixture(scope="module")
def pairwise(tmp_path_factory):
    """The page of a pairwise study of careful people."""
    protocol = replace(PROTOCOL, kind="pairwise", ties=True)
    folder = tmp_path_factory.mktemp("studies") / "pairwise"
    return Page(write_study_report(answered(folder, protocol, Raters(TRUTH, seed=2))).read_text())


def test_a_pairwise_study_has_strengths_and_shares(pairwise):
    assert pairwise.says("Strength (Bradley-Terry, logarithmic, 0 is the average)")
    assert pairwise.says("the logarithm of the odds with which a method is preferred")
    assert float(pairwise.rows["anyscene"][2].split("|")[0]) > 1
    share = pairwise.rows["custom over anyscene"][2]
    assert re.fullmatch(r"0\.0\d\|0\.0\d to 0\.\d\d; p 0\.\d+, corrected 0\.\d+", share)


def test_nobody_excluded_means_one_analysis(pairwise):
    assert pairwise.says("Nobody is excluded, so that there is one analysis only.")
    assert not pairwise.says("without the excluded")
    assert not pairwise.says("Preliminary")


def test_an_image_in_the_page_is_svg(page):
    addresses = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in addresses)
    assert base64.b64decode(addresses[0].partition(",")[2]).startswith(b"<?xml")


def test_a_study_without_checks_excludes_by_pace_alone(study):
    paced = replace(PROTOCOL, attention_checks=0)
    words = exclusion(paced, analyse_study(answers_of(study), paced))
    assert "excluded is who takes less than 2 s an item (median)." in words
