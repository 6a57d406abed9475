"""The ordered map over processes: order, bounds, and what a killed process does."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from child_process import SECONDS, child_process

from anyscene.errors import DamageError
from data_prep.parallel import CHUNK_ITEMS, CHUNKS_IN_FLIGHT_PER_WORKER, ordered_map

REPOSITORY = Path(__file__).resolve().parents[2]


def squared(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    return number**2


def killed_at(wanted: int, number: int) -> int:
    if number == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_few_items_are_taken_ahead(workers: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    ahead, results = [], []
    for result in ordered_map(squared, items(), workers=workers):
        results.append(result)
        ahead.append(len(taken) - len(results))
    assert results == [number**2 for number in range(200)]
    assert max(ahead) <= (workers * CHUNKS_IN_FLIGHT_PER_WORKER + 1) * CHUNK_ITEMS


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(DamageError, match="a worker process was killed, perhaps for lack of mem"):
        list(ordered_map(partial(killed_at, 30), range(100), workers=2))


def killed_while_it_answers(delay: float, _: int) -> bytes:
    """Its result takes longer to be sent than the process lives."""
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(2**28)


@pytest.mark.parametrize("delay", [0.02, 0.1])
def test_a_worker_that_is_killed_within_its_answer_is_not_waited_for(delay: float) -> None:
    with pytest.raises(DamageError, match="a worker process was killed"):
        list(ordered_map(partial(killed_while_it_answers, delay), range(4), workers=2))


def failing_at(wanted: int, number: int) -> int:
    if number == wanted:
        raise DamageError(f"item {number}")
    return number


def test_an_error_of_the_function_comes_where_its_item_would() -> None:
    results = ordered_map(partial(failing_at, 30), range(100), workers=2, chunk_items=1)
    assert [next(results) for _ in range(30)] == list(range(30))
    with pytest.raises(DamageError, match=r"^item 30$"):
        next(results)


ONE_KILLED = """
import os, pathlib, signal, time
from multiprocessing.resource_tracker import ensure_running
from data_prep.parallel import ordered_map

def end_or_stay(number=0):
    try:
        pathlib.Path({claim!r}).mkdir()
    except FileExistsError:
        time.sleep(600)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    ensure_running()  # which lifts a block in some versions of Python
    {hold}
    list(ordered_map(end_or_stay, range(2), workers=2, chunk_items=1))
elif {importing}:
    end_or_stay()
"""
HOLDS = {
    "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
    "ignored": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
}


@pytest.mark.parametrize("how", HOLDS)
@pytest.mark.parametrize("importing", [False, True])
def test_the_survivors_of_a_killed_worker_end_though_sigterm_is_held_back(
    importing: bool, how: str, tmp_path: Path
) -> None:
    """Workers inherit a blocked or ignored SIGTERM, and are at work for ten minutes."""
    script, claim = tmp_path / "parent.py", str(tmp_path / "claim")
    script.write_text(ONE_KILLED.format(claim=claim, importing=importing, hold=HOLDS[how]))
    command, environment = [sys.executable, script], os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with child_process(command, env=environment, stderr=subprocess.PIPE, text=True) as parent:
        _, errors = parent.communicate(timeout=SECONDS)
    assert "DamageError: a worker process was killed" in errors


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, pathlib, time\n"
        "from data_prep.parallel import ordered_map\n"
        "def work(number):\n"
        f"    pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n"
        "    time.sleep(0.1)\n"
        "if __name__ == '__main__':\n"
        "    list(ordered_map(work, range(10_000), workers=2))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with child_process([sys.executable, script], env=environment) as parent:
        assert wait_until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        parent.kill()
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert wait_until(lambda: not any(map(alive, workers)))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
