"""The real command, with real processes: killed, out of memory, out of disk; then run again."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from child_process import SECONDS, child_process
from small_coco import SmallCoco, box, file_bytes

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = 120
SHARD_SAMPLES = 10


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> SmallCoco:
    coco = SmallCoco(tmp_path_factory.mktemp("coco") / "coco")
    for number in range(IMAGES):
        size = (300, 300) if number % 3 else (300, 450)
        coco.add(box(40, 40, 120, 120), name="{}.jpg", size=size, quality=95)
    coco.write()
    return coco


@pytest.fixture(scope="module")
def whole(coco: SmallCoco) -> dict[str, bytes]:
    out = coco.folder / "whole"
    with prepare(coco, out) as process:
        assert process.wait(SECONDS) == 0
    return file_bytes(out)


def prepare(
    coco: SmallCoco, out: Path, workers: int = 1, **popen: object
) -> AbstractContextManager[subprocess.Popen]:
    files = {name: coco.folder / f"{name}.json" for name in ("instances", "captions")}
    options = files | {"images": coco.folder / "images", "out": out, "workers": workers}
    options |= {"buckets": "256x256,256x384", "shard-samples": SHARD_SAMPLES}
    words = [f"--{name}={value}" for name, value in options.items()]
    return child_process(
        [sys.executable, "-m", "anyscene.cli", "prepare", "coco", *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        **popen,
    )


def wait_for_shards(out: Path, process: subprocess.Popen, count: int) -> None:
    while len(list(out.glob("*.tar"))) < count:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)


def children(process: subprocess.Popen) -> list[int]:
    """The worker processes, without the one that watches semaphores."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_kill_the_same_command_ends_in_the_same_bytes(
    coco: SmallCoco, whole: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    with prepare(coco, tmp_path, workers) as process:
        wait_for_shards(tmp_path, process, 3)
        process.kill()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    assert "preparing.jsonl" in file_bytes(tmp_path)
    assert 3 <= len(kept) < IMAGES / SHARD_SAMPLES
    with prepare(coco, tmp_path, 3 - workers) as process:
        assert process.wait(SECONDS) == 0
    assert file_bytes(tmp_path) == whole
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # not made again


def test_a_killed_worker_is_one_line_and_can_be_continued(
    coco: SmallCoco, whole: dict[str, bytes], tmp_path: Path
) -> None:
    with prepare(coco, tmp_path, workers=2) as process:
        wait_for_shards(tmp_path, process, 1)
        os.kill(children(process)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "anyscene: a worker process was killed, perhaps for lack of memory; "
        "run the same command again, with fewer workers"
    )
    assert "Traceback" not in errors
    with prepare(coco, tmp_path, workers=1) as process:
        assert process.wait(SECONDS) == 0
    assert file_bytes(tmp_path) == whole


def limit_files(size: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes: writing fails as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [50, 60_000])
def test_a_full_disk_is_one_line_and_can_be_continued(
    coco: SmallCoco, whole: dict[str, bytes], tmp_path: Path, size: int
) -> None:
    with prepare(coco, tmp_path, preexec_fn=limit_files(size)) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert f"{tmp_path}/" in errors
    assert "cannot be written: File too large; the same command continues" in errors
    with prepare(coco, tmp_path) as process:
        assert process.wait(SECONDS) == 0
    assert file_bytes(tmp_path) == whole
