"""`python -m anyscene.tracking.follow RUN`: the process that lets W&B follow a run folder.

Training starts one and never waits for it: W&B may crash, hang or be refused in here without
training noticing more than the end of a process. It ends when its standard input does, that is with
the training process, however that ended, and after `--wait` seconds at most. Its exit status is 0,
or `TOLD` when it has printed its one warning itself.
"""

import argparse
import fcntl
import os
import shlex
import signal
import sys
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

TOLD = 3
POLL_SECONDS = 2.0
ANSWER_SECONDS = 5.0
REFUSED = "Some run data will not be synced"
"""How W&B tells, in its log alone, that a server takes nothing more, as with a full quota."""


class AlreadyFollowedError(Exception):
    """Another process lets W&B follow the run."""


class Terminal:
    """Where the user reads; all else that is printed here, by W&B, goes into a log."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.out, self.errors = os.dup(1), os.dup(2)
        self.warned = False
        log = os.open(log_file(run), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.begin = os.fstat(log).st_size
        os.dup2(log, 1)
        os.dup2(log, 2)

    def say(self, text: str) -> None:
        self._print(self.out, text)

    def warn(self, what: object) -> None:
        """One line about what happened to W&B first; all else is in the log."""
        line = f"WARNING: {' '.join(str(what).split())}"
        self._print(2 if self.warned else self.errors, line)
        self.warned = True

    def log_says(self, words: str) -> bool:
        """Whether W&B's own words of this start have these among them."""
        with log_file(self.run).open("rb") as file:
            file.seek(self.begin)
            return words.encode() in file.read()

    def _print(self, descriptor: int, text: str) -> None:
        with suppress(OSError):  # nobody reads any more
            os.write(descriptor, f"{text}\n".encode())


def log_file(run: Path) -> Path:
    """Where W&B's own words go."""
    return run / "logs" / "wandb.log"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--wait", type=float, default=0, help="seconds; 0: as long as it takes")
    parser.add_argument("--process", type=int, help="the training process, to measure its system")
    options = parser.parse_args(arguments)
    run: Path = options.run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # training decides when it is over
    log_file(run).parent.mkdir(exist_ok=True)
    terminal = Terminal(run)
    lifeline = Lifeline(lambda: give_up(terminal, options.wait), options.wait)
    try:
        with only_one(run, patient=options.wait > 0):
            follow(run, lifeline, options, terminal)
    except AlreadyFollowedError:
        terminal.say("W&B follows this run already, from a process that trains it")
    except Exception as error:
        terminal.warn(f"W&B has stopped ({error}); the run goes on. {later(run)}")
        return TOLD
    return 0


class Lifeline(Thread):
    """Waits for the end of standard input; then gives what is left so many seconds."""

    def __init__(self, give_up: Any, wait: float) -> None:
        super().__init__(daemon=True)
        self.ended = Event()
        self.exit_code = 1  # of the run, as W&B shows it; a killed one says nothing
        self.give_up = give_up
        self.wait_seconds = wait
        self.start()

    def run(self) -> None:
        if sys.stdin.buffer.read() == b"0":
            self.exit_code = 0
        if self.wait_seconds:
            timer = Timer(self.wait_seconds, self.give_up)
            timer.daemon = True
            timer.start()
        self.ended.set()


def follow(run: Path, lifeline: Lifeline, options: argparse.Namespace, terminal: Terminal) -> None:
    """Mirror the run folder until the lifeline ends, and then once more."""
    import wandb

    from anyscene.tracking.mirror import Mirror

    experiment = open_experiment(run, options, terminal)
    mirror = Mirror(run, experiment, terminal.warn)
    while True:
        last = lifeline.ended.is_set()
        mirror.update()
        if last:
            break
        if not terminal.warned and terminal.log_says(REFUSED):
            terminal.warn(f"W&B takes no figures any more; the run goes on. {later(run)}")
        lifeline.ended.wait(POLL_SECONDS)
    experiment.finish(exit_code=lifeline.exit_code)
    if terminal.log_says(REFUSED):
        terminal.warn(f"W&B did not take all figures. {later(run)}")
    wandb.teardown()


def open_experiment(run: Path, options: argparse.Namespace, terminal: Terminal) -> Any:
    """The run's own run in W&B, online or offline.

    It is offline as `WANDB_MODE` says, where nobody is logged in, and where W&B cannot be reached.
    """
    import wandb
    import yaml

    from anyscene.records import run_record

    config = yaml.safe_load((run / "config.yaml").read_text())
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        os.environ.setdefault(name, str(run.absolute() / "wandb"))
    (run / "wandb").mkdir(exist_ok=True)
    common: dict[str, Any] = {
        "id": run_record(run)["wandb_id"],
        "name": config["name"],
        "project": config["log"]["project"],
        "dir": str(run),
        "resume": "allow",
    }
    settings: dict[str, Any] = {"console": "off"}
    if options.process:
        settings["x_stats_pid"] = options.process
    if options.wait:
        settings["init_timeout"] = options.wait / 2  # the other half is for going on offline
    mode: Any = os.environ.get("WANDB_MODE") or (
        "online" if wandb.login(prompt=False) else "offline"
    )
    try:
        if mode == "online":
            check_server(wandb.setup().settings.base_url)
        experiment = wandb.init(**common, mode=mode, settings=wandb.Settings(**settings))
    except Exception as error:
        if mode == "offline":
            raise
        terminal.warn(f"W&B cannot be used ({error}); the run goes on offline")
        mode = "offline"
        experiment = wandb.init(**common, mode=mode, settings=wandb.Settings(**settings))
    if mode == "offline":
        terminal.say(f"W&B is offline. {later(run)}")
    elif experiment.url:
        terminal.say(f"W&B: {experiment.url}")
    return experiment


def check_server(address: str) -> None:
    """Raises `OSError` where W&B's server does not answer soon: its client would try for long."""
    import requests

    answer = requests.post(
        f"{address}/graphql", json={"query": "{ __typename }"}, timeout=ANSWER_SECONDS
    )
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise OSError(f"{address} answers {answer.status_code} {answer.reason}")


def later(run: Path) -> str:
    """How to upload what W&B has on this machine."""
    return f"To upload later: wandb sync --include-online {shlex.quote(str(run))}/wandb/*run-*"


def give_up(terminal: Terminal, wait: float) -> None:
    """End this process and W&B's, although not all is uploaded."""
    terminal.warn(f"W&B did not take all figures within {wait:g} s. {later(terminal.run)}")
    kill_children(os.getpid())
    os._exit(TOLD)


def kill_children(process: int) -> None:
    """End the processes that a process has started (where there is /proc)."""
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in listed.read_text().split():
                os.kill(int(child), signal.SIGKILL)


@contextmanager
def only_one(run: Path, patient: bool) -> Any:
    """Keep other processes from letting W&B follow this run; if one does, wait for its end.

    Raises `AlreadyFollowedError` at once where `patient` is false.
    """
    with (run / "logs" / ".wandb.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if patient else fcntl.LOCK_NB))
        except BlockingIOError:
            raise AlreadyFollowedError from None
        except OSError:
            pass  # a file system without locks
        yield


if __name__ == "__main__":
    status = main()
    os._exit(status)  # W&B may hang in what Python does at its end
