"""A small study that several tests share, and somebody who takes part in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_study import Links, make_study
from study_server import Server, running
from web import Visitor, annotator

if TYPE_CHECKING:
    from chromium import Browser


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Links]:
    """A study and its links. Read only."""
    return make_study(tmp_path_factory.mktemp("made"))


@pytest.fixture
def study(made: tuple[Path, Links], tmp_path: Path) -> tuple[Path, Links]:
    """A copy of it."""
    return shutil.copytree(made[0], tmp_path / "study"), made[1]


@pytest.fixture(scope="module")
def visitor(made: tuple[Path, Links], tmp_path_factory: pytest.TempPathFactory) -> Visitor:
    """An annotator of a copy of it. Only for requests that are refused."""
    folder = shutil.copytree(made[0], tmp_path_factory.mktemp("refused") / "study")
    return annotator(folder, made[1])


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Links]:
    """A study of larger images, and its links. Read only."""
    return make_study(tmp_path_factory.mktemp("large"), size=320)


@pytest.fixture
def server(large: tuple[Path, Links], tmp_path: Path) -> Iterator[Server]:
    """A server of a copy of the study."""
    with running(shutil.copytree(large[0], tmp_path / "study")) as own:
        yield own


@pytest.fixture
def token(large: tuple[Path, Links]) -> str:
    """Of the link of its first person."""
    return large[1].people["a01"]


@pytest.fixture
def browser(server: Server, token: str, tmp_path: Path) -> Iterator["Browser"]:
    """One in which the first item is shown."""
    from chromium import agree, browsing  # Selenium, which few tests need

    agree(server)
    with browsing(tmp_path / "profile") as own:
        own.begin(server, token)
        yield own
