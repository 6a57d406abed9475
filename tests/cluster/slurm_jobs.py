"""What the tests on a real Slurm share: the cluster, jobs on it, and what a run has to end with."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
PATIENCE_SECONDS = 600


CLOSING = threading.Event()
"""Set when the tests are over, whatever still waits."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's value once it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end or CLOSING.is_set():
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
    return value


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its state and logs are in `folder`."""

    folder: Path
    guard: subprocess.Popen

    @classmethod
    def up(cls, folder: Path) -> "Cluster":
        """Start one, and let this process's commands reach it."""
        environment = os.environ | {"DIR": str(folder)}
        # Takes the cluster down when this process ends, or is killed: then its input does.
        command = f"cat >/dev/null; {HERE / 'cluster_down.sh'}"
        guard = subprocess.Popen(
            ["sh", "-c", command], stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        subprocess.run([HERE / "cluster_up.sh"], env=environment, check=True, timeout=120)
        os.environ["SLURM_CONF"] = str(folder / "etc/slurm.conf")
        return cls(folder, guard)

    def down(self) -> None:
        """Cancel what runs, and end it: all processes of the nodes die with them."""
        self("scancel", "--user=root")
        self.guard.communicate(timeout=60)
        del os.environ["SLURM_CONF"]

    def script(self, name: str, *words: str) -> None:
        """Run one of the scripts beside this file."""
        environment = os.environ | {"DIR": str(self.folder)}
        subprocess.run([HERE / name, *words], env=environment, check=True, timeout=60)

    def __call__(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.strip()

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`."""
        shown = wait_for(lambda: self.shown(job), f"the controller to show job {job}", 30)
        match = re.search(rf"\b{name}=(\S+)", shown)
        assert match, name
        return match[1]

    def shown(self, job: str) -> str:
        """What Slurm has of a job; nothing while its controller is busy and refuses."""
        try:
            return self("scontrol", "show", "job", job)
        except subprocess.CalledProcessError as error:
            print(f"scontrol: {error.stderr}")
            return ""


@dataclass(frozen=True)
class Job:
    """A submitted run: its number, its run folder, and what its ranks note."""

    cluster: Cluster
    number: str
    run: Path
    notes: Path

    @property
    def state(self) -> str:
        """As Slurm calls it."""
        return self.cluster.field(self.number, "JobState")

    @property
    def restarts(self) -> int:
        """How often Slurm started it again."""
        return int(self.cluster.field(self.number, "Restarts"))

    @property
    def log(self) -> str:
        """What its starts printed."""
        return "".join(path.read_text() for path in sorted(self.run.glob("logs/slurm-*.out")))

    def held(self, start: int, rank: int) -> int:
        """Wait until a rank of a start is held; its process id, as its node counts."""
        file = self.notes / f"held-{start}-{rank}"
        self.wait(lambda: file.exists() and file.read_text(), f"a held rank in start {start}")
        return int(file.read_text())

    def begun(self, start: int, *ranks: int) -> None:
        """Wait until the processes of a start are there."""
        files = [self.notes / f"begun-{start}-{rank}" for rank in ranks]
        self.wait(lambda: all(f.exists() and f.read_text() for f in files), f"start {start}")

    def go_on(self, start: int) -> None:
        """Let held ranks go."""
        (self.notes / f"go-{start}").touch()

    def signal(self, *names: str) -> None:
        """Send signals to all processes of the job, as Slurm does."""
        for name in names:
            self.cluster("scancel", f"--signal={name}", self.number)

    def kill(self, node: str, process: int) -> None:
        """`kill -9` on a node of the job."""
        where = f"--jobid={self.number}", f"--nodelist={node}"
        self.cluster(
            "srun", "--overlap", "--ntasks=1", "--nodes=1", *where, "kill", "-9", str(process)
        )

    @property
    def nodes(self) -> list[str]:
        """The nodes that it runs on, in the order of the ranks."""
        names = self.cluster.field(self.number, "NodeList")
        return self.cluster("scontrol", "show", "hostnames", names).split()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a state; a job that ends otherwise fails at once, with its log."""

        def met_or_dead() -> bool:
            return bool(condition()) or self.state in ("FAILED", "CANCELLED", "TIMEOUT")

        try:
            wait_for(met_or_dead, what)
        except TimeoutError as error:
            raise AssertionError(f"{error}; {self.state}; log:\n{self.log}") from None
        assert condition(), f"no {what}: {self.state}; log:\n{self.log}"

    def finish(self) -> None:
        """Wait for its regular end."""
        self.wait(lambda: self.state == "COMPLETED", "a regular end")

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """What a rank noted, in order."""
        text = (self.notes / f"rank-{rank}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def element(self, number: int) -> "Job":
        """An element of an array of runs."""
        run, notes = self.run.parent / f"{self.run.name}-{number}", self.notes / str(number)
        return replace(self, number=f"{self.number}_{number}", run=run, notes=notes)

    def at(self, run: Path) -> "Job":
        """The same job with its run folder elsewhere than the tests' runs."""
        return replace(self, run=run)

    def begun_steps(self, rank: int = 0) -> list[int]:
        """The steps that a rank began, over all starts."""
        return [line["step"] for line in self.lines(rank)]

    def samples(self, ranks: int) -> list[dict[int, list[tuple[int, str]]]]:
        """For each rank: slot and key of the samples of a step, of the last start that did it."""
        found = []
        for rank in range(ranks):
            steps: dict[int, list[tuple[int, str]]] = {}
            starts: dict[int, str] = {}
            for line in self.lines(rank):
                step = line["step"]
                if starts.get(step) != line["start"]:
                    starts[step], steps[step] = line["start"], []
                steps[step] += zip(line["slots"], line["keys"], strict=True)
            found.append(dict(sorted(steps.items())))
        return found
