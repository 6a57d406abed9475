"""Fixtures that several tests share; `tiny` has the functions behind them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny import tiny_base, tiny_config, tiny_demo

if TYPE_CHECKING:
    from training import Run, Workspace


# One thread a process: tests run side by side, and the last bits depend on the number of threads.
# Set before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

MASK = signal.pthread_sigmask(signal.SIG_BLOCK, [])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is slow gets more time before it counts as hanging."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def _signals_are_delivered() -> Iterator[None]:
    """`anyscene train` in this process, in a shared fixture too, holds signals back; tests and the
    processes that they start shall not."""
    signal.pthread_sigmask(signal.SIG_SETMASK, MASK)
    yield
    while waiting := signal.sigpending():
        signal.sigwait(waiting)
    signal.pthread_sigmask(signal.SIG_SETMASK, MASK)


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable-Diffusion-type base for 64 px: factor 4, v-prediction. Read only."""
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the shard folders `train` (8 scenes) and `val` (4) of 64 px. Read only."""
    return tiny_demo(tmp_path_factory.mktemp("demo")) / "shards"


@pytest.fixture(scope="session")
def tiny_run(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished run of `tiny_config`, with a checkpoint a step. Read only."""
    from anyscene.train import train

    runs = tmp_path_factory.mktemp("runs")
    config = tiny_config(tiny_base_folder, demo_shards, runs, "train.checkpoint_every=1")
    return train(config)


@pytest.fixture(scope="session")
def tiny_export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `tiny_run`, with its base. Read only."""
    from anyscene.export import export

    return export(tiny_run, tmp_path_factory.mktemp("export") / "tiny")


@pytest.fixture
def canvas(tmp_path: Path) -> Path:
    """A file with a noisy square element."""
    from canvases import write_canvas

    return write_canvas(tmp_path / "dog.png")


@pytest.fixture(scope="session")
def workspace(
    tiny_base_folder: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Workspace":
    """A configuration file, a judge beside it, and a folder for runs: give each its own name."""
    from training import Workspace, save_tiny_judge

    folder = tmp_path_factory.mktemp("workspace")
    save_tiny_judge(folder / "judge")
    return Workspace.make(tiny_base_folder, demo_shards, folder)


@pytest.fixture(scope="session")
def whole(workspace: "Workspace") -> "tuple[Run, list[list[str]]]":
    """An uninterrupted run of six steps, and the keys of its batches. Read only."""
    from training import recorded_keys

    with recorded_keys() as keys:
        run = workspace.train("whole", workspace.judge)
    return run, keys
