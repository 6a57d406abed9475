"""What can be known before a model is built: checked on all ranks, told with node and rank."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import distributed

from anyscene.config import Config
from anyscene.config_io import config_text
from anyscene.data.sample import ShardManifest
from anyscene.errors import AnySceneError, InputError, LostRankError
from anyscene.ranks import local_rank, node_name
from anyscene.run_folder import package_versions

SHARED_SECONDS = 60
"""How long a file of another node may take to be seen on a network file system."""
TELL_SECONDS = 10
"""How long rank zero stays, so that the others can read that the start failed."""


@dataclass(frozen=True)
class Report:
    """What a rank found on its node."""

    rank: int
    node: str
    devices: int  # GPUs that can be seen
    versions: dict[str, str]
    config_sha256: str
    problems: list[str]

    @property
    def place(self) -> str:
        """How errors name it."""
        return f"rank {self.rank} on {self.node}"


def check_start(config: Config, run: Path) -> None:
    """Under SLURM check all ranks and connect them; ranks of one machine have nothing to compare.

    Raises:
        InputError: all that is wrong, in one line with nodes and ranks; on rank zero alone, the
            others exit with code 2.
        LostRankError: ranks do not answer, or cannot reach each other.
    """
    if not SLURMEnvironment.detect():
        return
    check_job_size(config)
    environment = SLURMEnvironment(auto_requeue=False)
    rank, ranks = environment.global_rank(), environment.world_size()
    if ranks == 1:
        judge([make_report(config, run, rank)], config)
        return
    timeout = timedelta(minutes=config.cluster.timeout_minutes)
    store = open_store(environment, rank, timeout)
    exchange(store, make_report(config, run, rank), ranks, config, run)
    connect(store, rank, ranks, timeout)


def check_job_size(config: Config) -> None:
    """Raises `InputError` where the job's nodes or tasks are not those of the configuration."""
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    tasks = int(os.environ["SLURM_NTASKS"])
    train = config.train
    if (nodes, tasks) != (train.nodes, train.nodes * train.devices):
        raise InputError(
            f"{node_name()}: the job has {tasks} tasks on {nodes} nodes, but train.nodes x "
            f"train.devices = {train.nodes} x {train.devices}; give srun --nodes={train.nodes} "
            f"--ntasks-per-node={train.devices}, or change these keys"
        )


def make_report(config: Config, run: Path, rank: int) -> Report:
    """Check this rank. Files are checked by the first rank of a node."""
    problems = check_folders(config, run) if local_rank() == 0 else []
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    text = config_text(config).encode()
    return Report(
        rank,
        node_name(),
        torch.cuda.device_count(),
        package_versions(),
        hashlib.sha256(text).hexdigest(),
        problems,
    )


def check_folders(config: Config, run: Path) -> list[str]:
    """What keeps this process from writing the run folder or reading the shards."""
    problems = []
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".{node_name()}.{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        problems.append(f"the run folder {run} cannot be written ({error.strerror})")
    for folder in filter(None, (config.data.train, *config.data.mix, config.data.val)):
        if "://" in folder or folder.startswith("pipe:"):
            continue  # fetched while training
        try:
            check_shards(Path(folder))
        except AnySceneError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{error.filename} cannot be read ({error.strerror})")
    return problems


def check_shards(folder: Path) -> None:
    """Raises `OSError` or `InputError` unless every shard is there with its size."""
    for record in ShardManifest.read(folder).shards:
        size = (folder / record.name).stat().st_size
        if size != record.bytes:
            raise InputError(f"{folder / record.name} has {size} bytes, not {record.bytes}")


def open_store(
    environment: SLURMEnvironment, rank: int, timeout: timedelta
) -> distributed.TCPStore:
    """The store on rank zero, through which ranks find each other."""
    address, port = environment.main_address, environment.main_port
    try:
        return distributed.TCPStore(
            address, port, is_master=rank == 0, timeout=timeout, wait_for_workers=False
        )
    except (distributed.DistError, RuntimeError) as error:
        raise LostRankError(
            f"rank {rank} on {node_name()} cannot reach rank 0 at {address}:{port} within "
            f"{timeout}: {first_line(error)}"
        ) from None


def exchange(
    store: distributed.Store, report: Report, ranks: int, config: Config, run: Path
) -> None:
    """Let rank zero judge the reports of all ranks, and all know what it said."""
    if report.rank > 0:
        answer(store, report)
        return
    probe = run / f".shared.{os.getpid()}.part"
    try:
        with suppress(OSError):  # is in the report
            probe.touch()
        store.set("probe", str(probe.absolute()))
        judge(collect(store, report, ranks, config), config)
    except BaseException:
        store.set("verdict", "bad")
        wait_until(lambda: store.add("told", 0) == ranks - 1, TELL_SECONDS)
        raise
    finally:
        probe.unlink(missing_ok=True)
    store.set("verdict", "good")


def answer(store: distributed.Store, report: Report) -> None:
    """Report to rank zero, and do as it says."""
    try:
        store.set(f"report/{report.rank}", json.dumps(asdict(report)))
        probe = Path(store.get("probe").decode())
        store.set(f"seen/{report.rank}", str(int(wait_until(probe.exists, SHARED_SECONDS))))
        verdict = store.get("verdict")
        store.add("told", 1)
    except distributed.DistError as error:
        raise LostRankError(
            f"{report.place} got no answer of rank 0: {first_line(error)}"
        ) from None
    if verdict == b"bad":
        sys.exit(2)  # rank zero tells why


def collect(store: distributed.Store, own: Report, ranks: int, config: Config) -> list[Report]:
    """The reports of all ranks. Raises `LostRankError` that names those that do not come."""
    keys = {rank: [f"report/{rank}", f"seen/{rank}"] for rank in range(1, ranks)}
    seconds = 60 * config.cluster.timeout_minutes
    if not wait_until(lambda: store.check([k for pair in keys.values() for k in pair]), seconds):
        missing = [str(rank) for rank, pair in keys.items() if not store.check(pair)]
        raise LostRankError(
            f"{own.place} got no report of rank {', '.join(missing)} of {ranks} within "
            f"cluster.timeout_minutes={config.cluster.timeout_minutes}; the job's nodes are "
            f"{os.environ.get('SLURM_JOB_NODELIST')}"
        )
    reports = [own]
    for report_key, seen_key in keys.values():
        report = Report(**json.loads(store.get(report_key)))
        if store.get(seen_key) == b"0":
            report.problems.append(
                f"does not see what {own.place} wrote into the run folder: it is not shared"
            )
        reports.append(report)
    return reports


def judge(reports: list[Report], config: Config) -> None:
    """Raises `InputError` for what a rank found, and for what differs between them."""
    first = reports[0]
    needed = config.train.devices if first.devices else 0
    needed = max(needed, config.cluster.gpus or 0)
    problems = []
    for report in reports:
        found = list(report.problems)
        if report.devices < needed:
            found.append(f"sees {report.devices} GPUs, not {needed}")
        for name, version in first.versions.items():
            if report.versions[name] != version:
                found.append(f"has {name} {report.versions[name]}, {first.place} has {version}")
        if report.config_sha256 != first.config_sha256:
            found.append(f"has another configuration than {first.place}")
        problems += [f"{report.place}: {problem}" for problem in found]
    if problems:
        raise InputError("; ".join(problems))


def connect(store: distributed.Store, rank: int, ranks: int, timeout: timedelta) -> None:
    """Set up the process group that Lightning will use, and try it."""
    on_gpu = torch.cuda.is_available()
    try:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=ranks,
            timeout=timeout,
        )
        one = torch.ones((), device="cuda" if on_gpu else "cpu")
        distributed.all_reduce(one)
        reached = int(one)
    except (distributed.DistError, RuntimeError) as error:
        raise LostRankError(
            f"rank {rank} on {node_name()}: the first all-reduce of {ranks} ranks failed "
            f"({first_line(error)}); check the network between the nodes, and that "
            "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, if set, name an interface of every node"
        ) from None
    if reached != ranks:
        raise LostRankError(f"rank {rank} on {node_name()}: {reached} of {ranks} ranks took part")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition holds within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def first_line(error: BaseException) -> str:
    """An error of torch without its trace."""
    return str(error).partition("\n")[0]
