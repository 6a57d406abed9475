"""The run folder: `config.yaml` and `run.json`, and the checkpoint to go on from."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from anyscene import __version__
from anyscene.checkpoint import (
    PATTERN,
    check_checkpoint,
    checkpoints,
    last_good_checkpoint,
    remove_checkpoint,
    step_of,
)
from anyscene.config import Config
from anyscene.config_io import changed_values, save_config
from anyscene.errors import AnySceneError, ConfigError, DamageError
from anyscene.files import write_json
from anyscene.locks import alone_in
from anyscene.ranks import is_first_process, is_requeued, node_name
from anyscene.records import is_finished, run_record

IDENTITY = ("run_id", "wandb_id")
ASIDE = "damaged-"
"""Before the name of what was passed over and may be good: a checkpoint no more."""
VERSIONS_OF = ("torch", "lightning", "diffusers", "transformers", "webdataset")


def agreed_checkpoint(config: Config, run: Path, stack: ExitStack) -> Path | None:
    """What `find_checkpoint` finds on rank zero, for all ranks that are connected already.

    Rank zero keeps other trainings out of the run folder until `stack` is closed.
    """
    if not distributed.is_initialized():
        if is_first_process():
            stack.enter_context(alone_in(run))
        return find_checkpoint(config, run)
    if distributed.get_rank() > 0:
        answer: list[Any] = [None]
        distributed.broadcast_object_list(answer)
        if isinstance(answer[0], Exception):
            raise SystemExit(2)  # rank zero tells why
        return answer[0]
    try:
        stack.enter_context(alone_in(run))
        found = find_checkpoint(config, run)
    except (AnySceneError, DamageError) as error:
        distributed.broadcast_object_list([error])
        raise
    distributed.broadcast_object_list([found])
    return found


def agreed(find: Callable[[], bool]) -> bool:
    """What rank zero finds, for all that are connected already: others may see older files."""
    if not distributed.is_initialized():
        return find()
    answer = [distributed.get_rank() == 0 and find()]
    distributed.broadcast_object_list(answer)
    return answer[0]


def find_checkpoint(config: Config, run: Path) -> Path | None:
    """Where to go on from; None to start anew.

    A requeued job goes on with what it has begun itself, whatever its first start was told.

    Raises:
        ConfigError: going on as `train.resume` says would overwrite or mix up a run.
        DamageError: the checkpoint that `train.resume` names is damaged.
    """
    resume = config.train.resume
    begun = has_begun(run)
    if resume == "auto" or begun:
        own = last_good_checkpoint(run / "checkpoints")
        if own is not None or resume in ("auto", "never"):
            return own
    if resume == "never":
        held = (run / "run.json").exists() or checkpoints(run / "checkpoints")
        if is_first_process() and held:  # others may see what it writes
            raise ConfigError(
                f"train.resume=never, but {run} holds a run; set train.resume=auto to go on with "
                "it, or another name"
            )
        return None
    check_checkpoint(Path(resume))
    step = step_of(Path(resume))
    newest = next(iter(checkpoints(run / "checkpoints")), None)
    if newest is None and step >= config.train.steps:
        raise ConfigError(
            f"train.resume={resume} is of step {step}, so that train.steps={config.train.steps} "
            f"leaves none to train in {run}; use train.steps={step + 1} or more"
        )
    if not begun and newest is not None and newest.stem > f"step-{step:08d}":
        raise ConfigError(
            f"train.resume={resume} is older than {newest.name}, which {run} already holds; "
            "remove the newer checkpoints or give the run another name"
        )
    return Path(resume)


def has_begun(run: Path) -> bool:
    """Whether an earlier start of this job, which SLURM has requeued, has begun the run."""
    jobs = run_record(run).get("jobs", []) if is_requeued() else []
    return os.environ.get("SLURM_JOB_ID") in [job["slurm_job_id"] for job in jobs]


def prepare_run_folder(
    run: Path,
    config: Config,
    base_sha256: str,
    start_step: int,
    identity: dict[str, str] | None = None,
) -> None:
    """`config.yaml` and `run.json` of the run, made or extended by this start; rank zero writes.

    `identity` is that of the run's own checkpoint, which counts where `run.json` was lost.

    `config.yaml` is what the run goes on with. Where a value differs from the start before, the
    record of this start in `run.json` says so.
    """
    if not is_first_process():
        return
    record = run_record(run)
    changed = changed_values(run / "config.yaml", config)
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run, start_step)
    new = f"{config.name}-{os.urandom(4).hex()}"
    for key in IDENTITY:
        record.setdefault(key, (identity or {}).get(key, new))
    record["base"] = {
        "path": config.base.path,
        "revision": config.base.revision,
        "sha256": base_sha256,
    }
    record["git_commit"] = git_commit()
    record["versions"] = package_versions()
    job = {
        "step": start_step,
        "host": node_name(),
        "nodes": config.train.nodes,
        "devices": config.train.devices,
        "accumulate": config.train.accumulate,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "changed": changed,
    }
    record.setdefault("jobs", []).append(job)
    write_json(run / "run.json", record)
    save_config(config, run / "config.yaml")  # last: a start that dies before sees what changed


def read_identity(run: Path) -> dict[str, str]:
    """The ids of a run in its folder."""
    return {key: value for key, value in run_record(run).items() if key in IDENTITY}


def remove_leftovers(run: Path, start_step: int) -> None:
    """What a killed start was writing, so that starts do not fill the disk.

    The checkpoints that were passed over go out of the way, for the run writes them anew: shares
    that never became a checkpoint are removed. All others may be good, for a single bad read or a
    record that a network file system does not show yet looks like damage: the newest is kept under
    another name.
    """
    for part in [part for folder in (run, run / "checkpoints") for part in folder.glob(".*.part")]:
        if part.is_file():  # a killed export's is a folder
            part.unlink(missing_ok=True)
    for path in checkpoints(run / "checkpoints"):
        if path.stem <= f"step-{start_step:08d}":
            continue
        if path.is_dir() and not is_finished(path):
            remove_checkpoint(path)
        else:
            set_aside(path)


def set_aside(path: Path) -> None:
    """Keep a checkpoint that looks damaged under a name that is none; only the newest such one.

    Says what it does, and how to have the checkpoint back.
    """
    names = [kept.name.removeprefix(ASIDE) for kept in path.parent.glob(ASIDE + PATTERN)]
    if any(name > path.name for name in names):
        print(f"WARNING: {path} looks damaged, and is removed", file=sys.stderr)
        remove_checkpoint(path)
        return
    for name in names:
        remove_checkpoint(path.with_name(ASIDE + name))
    kept = path.with_name(ASIDE + path.name)
    path.rename(kept)  # before its record: one that was never finished may be removed
    record = path.with_suffix(".json")
    if record.is_file():
        record.rename(kept.with_suffix(".json"))
    print(
        f"WARNING: {path} looks damaged, and is {kept.name} from now on, until a newer one does; "
        "should it be good, give it and its .json the old names again",
        file=sys.stderr,
    )


def package_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    return {"anyscene": __version__, **{name: version(name) for name in VERSIONS_OF}}


def git_commit() -> str | None:
    """The commit of the code, with `+dirty` for uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
