"""Chromium with the few things that an annotator does, and what became of them in the study."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.wait import WebDriverWait
from study_server import Server

from anyscene.study.store import FILE_NAME, Store

MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="its driver is not installed"),
]
STATE = """(() => {
  const section = document.querySelector("main > section:not([hidden])")?.id;
  if (section === undefined || document.body.classList.contains("busy")) return "busy";
  return section === "item" ? document.getElementById("place").textContent : section;
})()"""
PHONE = {"width": 360, "height": 640, "pixelRatio": 2, "touch": True}  # a small one


class Browser:
    """A window of its own, with the profile of a folder."""

    def __init__(self, profile: Path, phone: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument("--window-size=1280,800")
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
            options.add_argument(f"--{flag}")
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": PHONE})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, server: Server, token: str) -> None:
        """Follow a private link."""
        self.driver.get(f"{server.url}/s/{token}")

    def begin(self, server: Server, token: str) -> None:
        """Follow a private link as far as the first item."""
        self.open(server, token)
        self.reach("instructions")
        self.find("begin").click()
        self.reach("1 of 10")

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, ready: Callable[[], Any], seconds: float = 20) -> Any:
        """What `ready` returns, once it is true."""
        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: ready())

    def find(self, identifier: str) -> Any:
        return self.driver.find_element("id", identifier)

    def script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def state(self) -> str:
        """Which section is shown, or of an item its place; `busy` in between."""
        return self.script(STATE)

    def reach(self, state: str) -> None:
        """Wait for a section, or for an item such as `3 of 10`."""
        self.wait(lambda: self.state() == state)

    def chosen(self) -> dict[str, int]:
        """What is answered on the screen."""
        code = "[...document.querySelectorAll('input:checked')].map(e => [e.name, Number(e.value)])"
        return dict(self.script(code))

    def kept(self) -> int:
        """Answers that wait in the browser."""
        return self.script("Object.keys(localStorage).length")


@contextmanager
def browsing(profile: Path, *, phone: bool = False) -> Iterator[Browser]:
    browser = Browser(profile, phone)
    try:
        yield browser
    finally:
        browser.driver.quit()


def agree(server: Server) -> None:
    """Spare a person the page of consent."""
    store = Store(server.folder)
    store.consent("a01")
    store.close()


def submissions(folder: Path) -> list[tuple[int, dict[str, int]]]:
    """Position and values of everything that was ever stored, in its order."""
    with sqlite3.connect(folder / FILE_NAME) as connection:
        rows = connection.execute(
            "SELECT position, answers FROM submissions AS s JOIN tasks ON s.task = tasks.id "
            "ORDER BY number"
        ).fetchall()
    connection.close()
    return [(position, json.loads(answers)) for position, answers in rows]


def values(quality: int, fidelity: int) -> dict[str, int]:
    return {"quality": quality, "fidelity": fidelity}
