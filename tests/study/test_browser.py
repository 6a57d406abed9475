"""The pages in Chromium: by keyboard, by tapping on a phone, and what they show."""

from dataclasses import replace
from pathlib import Path

import pytest
from chromium import MARKS, PHONE, Browser, agree, browsing, submissions, values
from selenium.webdriver.common.keys import Keys
from small_study import METHODS, PROTOCOL, make_study
from study_server import Server, running

from anyscene.study.store import Store

pytestmark = MARKS


def test_a_whole_session_by_keyboard_alone(server: Server, token: str, tmp_path: Path):
    given, rests = [], 0
    with browsing(tmp_path / "profile") as browser:
        browser.open(server, token)
        browser.reach("welcome")
        browser.press(Keys.TAB)
        assert browser.driver.switch_to.active_element.accessible_name == "I agree to take part"
        outline = browser.script("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        browser.press(Keys.ENTER)
        browser.reach("instructions")
        browser.press(Keys.TAB, Keys.ENTER)
        for position in range(10):
            browser.reach(f"{position + 1} of 10")
            given.append((position, values(1 + position % 4, 4 - position % 3)))
            browser.press(*map(str, given[-1][1].values()))
            assert browser.chosen() == given[-1][1]
            if position == 6:  # change the item before, and come back
                browser.press(Keys.ARROW_LEFT)
                browser.reach("6 of 10")
                browser.press(Keys.ARROW_DOWN, "1", Keys.ENTER)
                browser.reach("7 of 10")
                given.insert(-1, (5, {**given[-2][1], "fidelity": 1}))
                browser.press(*map(str, given[-1][1].values()))
            browser.press(Keys.ENTER)
            browser.wait(lambda: browser.state() != "busy")
            if browser.state() == "rest":
                rests += 1
                browser.press(Keys.TAB, Keys.ENTER)
        browser.reach("end")
        assert not [
            entry for entry in browser.driver.get_log("browser") if entry["level"] != "INFO"
        ]
    assert submissions(server.folder) == given
    assert rests == 1


def test_controls_have_names_and_radio_buttons_their_own_keys(browser: Browser):
    inputs = browser.driver.find_elements("css selector", "#item input")
    assert [one.accessible_name for one in inputs[:4]] == [
        "1 poor",
        "2 fair",
        "3 good",
        "4 excellent",
    ]
    assert {one.aria_role for one in inputs} == {"radio"}
    groups = browser.driver.find_elements("css selector", "#item fieldset")
    assert [group.accessible_name for group in groups] == ["Quality", "Fidelity"]
    for button in browser.driver.find_elements("css selector", "#item button, #bar button"):
        assert button.accessible_name
    browser.script("document.querySelector('#back').disabled = false")
    inputs[0].send_keys(Keys.SPACE)
    inputs[0].send_keys(Keys.ARROW_RIGHT)
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert browser.chosen() == {"quality": 3}
    assert browser.state() == "1 of 10"
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert browser.script(outline) == "solid"


def test_an_item_without_every_answer_is_not_left(browser: Browser, server: Server):
    browser.press("2", Keys.ENTER)
    browser.wait(lambda: "every question" in browser.find("notice").text)
    assert browser.find("notice").aria_role == "alert"
    browser.press("7", "3")  # 7 is no answer
    assert browser.chosen() == values(2, 3)
    browser.press(Keys.ENTER)
    browser.reach("2 of 10")
    assert submissions(server.folder) == [(0, values(2, 3))]


def test_the_picture_is_enlarged_beside_the_foreground(browser: Browser):
    zoom = browser.find("zoom")
    browser.press("z")
    browser.wait(zoom.is_displayed)
    source = browser.script("document.getElementById('first').src")
    assert browser.script("document.getElementById('zoom-image').src") == source
    fitting = browser.find("zoom-image").size["width"]
    assert fitting > browser.find("first").size["width"]
    browser.press(Keys.ARROW_LEFT)
    assert browser.find("zoom-caption").text == "The objects"
    browser.find("zoom-room").click()
    assert browser.find("zoom-image").size["width"] == pytest.approx(2 * fitting, rel=0.01)
    browser.press("4", "z")  # answers nothing that cannot be seen
    browser.wait(lambda: not zoom.is_displayed())
    assert browser.chosen() == {}


def test_closing_the_browser_and_coming_back(server: Server, token: str, tmp_path: Path):
    agree(server)
    with browsing(tmp_path / "one") as browser:
        browser.begin(server, token)
        browser.press("1", "2", Keys.ENTER)
        browser.reach("2 of 10")
        browser.press("4")  # half an answer is none
    with browsing(tmp_path / "another") as browser:
        browser.open(server, token)
        browser.reach("2 of 10")
        assert browser.chosen() == {}
        browser.press(Keys.ARROW_LEFT)
        browser.reach("1 of 10")
        assert browser.chosen() == values(1, 2)
    assert submissions(server.folder) == [(0, values(1, 2))]


def test_a_phone_shows_all_of_it_and_is_used_by_tapping(server: Server, token: str, tmp_path: Path):
    agree(server)
    with browsing(tmp_path / "profile", phone=True) as browser:
        browser.open(server, token)
        browser.reach("instructions")
        overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.script(overflow) == 0
        browser.script("document.getElementById('begin').click()")
        browser.reach("1 of 10")
        assert browser.script(overflow) == 0
        picture = browser.find("first").rect
        assert picture["width"] > 0.9 * PHONE["width"]
        following = browser.find("next").rect
        assert following["y"] + following["height"] <= PHONE["height"]
        for label in browser.driver.find_elements("css selector", "#item label, #next"):
            assert min(label.size.values()) >= 44  # a finger
        for criterion in ("quality", "fidelity"):
            browser.find("answers").find_element(
                "css selector", f"[name={criterion}][value='4']"
            ).find_element("xpath", "..").click()
        browser.find("next").click()
        browser.reach("2 of 10")
    assert submissions(server.folder) == [(0, values(4, 4))]


def test_who_wants_less_motion_gets_none(browser: Browser):
    duration = "getComputedStyle(document.querySelector('#next')).transitionDuration"
    assert browser.script(duration) != "0s"
    feature = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    assert browser.script(duration) == "0s"


def test_a_pair_is_shown_side_by_side(tmp_path: Path):
    protocol = replace(PROTOCOL, kind="pairwise", ties=True, attention_checks=0)
    folder, links = make_study(tmp_path, protocol, size=320)
    store = Store(folder)
    store.consent("a01")
    with running(folder) as server, browsing(tmp_path / "profile") as browser:
        browser.open(server, links.people["a01"])
        browser.reach("instructions")
        browser.find("begin").click()
        browser.wait(lambda: browser.state().startswith("1 of"))
        left, right = browser.find("first").rect, browser.find("second").rect
        assert left["x"] + left["width"] <= right["x"]
        assert left["width"] == right["width"] > 200
        browser.press("1", "2", Keys.ENTER)
        browser.wait(lambda: browser.state().startswith("2 of"))
    answers = {one.criterion: one for one in store.answers()}
    store.close()
    better = "method_b" if answers["quality"].swapped else "method"
    assert answers["quality"].value == (-1 if better == "method" else 1)
    assert answers["fidelity"].value == 0
    assert {answers["quality"].method, answers["quality"].method_b} == {*METHODS}
