"""A small study that several tests share, and somebody who takes part in it."""

import shutil
from pathlib import Path

import pytest
from small_study import Links, make_study
from web import Visitor, annotator


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
