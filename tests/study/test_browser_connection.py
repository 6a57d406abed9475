"""The pages in Chromium when the server, the browser or the study goes, and in two windows."""

from dataclasses import replace
from pathlib import Path

from chromium import MARKS, Browser, agree, browsing, submissions, values
from selenium.webdriver.common.keys import Keys
from small_study import PROTOCOL, make_study
from study_server import Server

from anyscene.study.protocol import Criterion

pytestmark = MARKS


def test_the_server_is_killed_between_two_ratings(browser: Browser, server: Server):
    """Nothing is lost, nothing comes twice, and the next item waits until the answer is stored."""
    browser.press("1", "2", Keys.ENTER)
    browser.reach("2 of 10")
    server.stop()
    browser.press("3", "4", Keys.ENTER)
    browser.wait(lambda: "kept in this browser" in browser.find("notice").text)
    assert browser.find("place").text == "2 of 10"
    assert browser.kept() == 1
    browser.press("1", Keys.ENTER, Keys.ENTER)  # an impatient person
    browser.find("next").click()
    server.start()
    browser.find("retry").click()
    browser.reach("3 of 10")
    assert browser.kept() == 0
    assert not browser.find("notice").is_displayed()
    browser.press("2", "2", Keys.ENTER)
    browser.reach("4 of 10")
    expected = [(0, values(1, 2)), (1, values(3, 4)), (2, values(2, 2))]
    assert submissions(server.folder) == expected


def test_an_answer_outlives_a_closed_browser_without_connection(
    server: Server, token: str, tmp_path: Path
):
    agree(server)
    profile = tmp_path / "profile"
    with browsing(profile) as browser:
        browser.begin(server, token)
        server.stop()
        browser.press("3", "4", Keys.ENTER)
        browser.wait(lambda: browser.kept() == 1)
    server.start()
    with browsing(profile) as browser:
        browser.open(server, token)
        browser.reach("2 of 10")
        assert browser.kept() == 0
    assert submissions(server.folder) == [(0, values(3, 4))]


def test_an_answer_is_not_sent_to_another_study_at_the_same_address(
    browser: Browser, server: Server, tmp_path: Path
):
    """The same pseudonym and other questions: a refusal would stop the new study for good."""
    (tmp_path / "later").mkdir()
    questions = (Criterion("length", "Length", "Is it long?"),)  # also what a form has by itself
    folder, links = make_study(tmp_path / "later", replace(PROTOCOL, criteria=questions))
    server.stop()
    browser.press("3", "4", Keys.ENTER)
    browser.wait(lambda: browser.kept() == 1)
    server.folder = folder
    agree(server.start())
    browser.open(server, links.people["a01"])
    browser.reach("instructions")
    assert browser.kept() == 0
    assert submissions(folder) == []
    browser.find("begin").click()
    browser.reach("1 of 10")
    browser.press("2", Keys.ENTER)
    browser.reach("2 of 10")
    browser.press(Keys.ARROW_LEFT)
    browser.wait(lambda: browser.chosen() == {"length": 2})


def test_two_windows_do_not_answer_an_item_twice(browser: Browser, server: Server, token: str):
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.begin(server, token)
    browser.press("1", "1", Keys.ENTER)
    browser.reach("2 of 10")
    browser.driver.switch_to.window(first)
    browser.press("4", "4", Keys.ENTER)
    browser.wait(lambda: "another window" in browser.find("notice").text)
    browser.wait(lambda: browser.chosen() == values(1, 1))
    assert browser.kept() == 0
    browser.press(Keys.ARROW_UP, "3", Keys.ENTER)
    browser.reach("2 of 10")
    assert submissions(server.folder) == [(0, values(1, 1)), (0, values(3, 1))]
