"""Going on with a run on other numbers of nodes or devices. No torch here."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyscene.config import Config
from anyscene.errors import ConfigError
from anyscene.ranks import is_first_process
from anyscene.records import run_record


def fit_accumulation(config: Config) -> Config:
    """The configuration, with `train.accumulate` as these numbers of nodes and devices need it.

    The run's global batch stays, and no device gets larger micro-batches than at the first start.
    A new run, and one whose `train.accumulate` was changed since, are left as they are.

    Raises:
        ConfigError: the devices cannot share the run's global batch.
    """
    first = first_job(config)
    if first is None:
        return config
    train, batch_size = config.train, config.data.batch_size
    ranks = train.nodes * train.devices
    if batch_size % ranks:
        works = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise ConfigError(
            f"train.nodes x train.devices = {train.nodes} x {train.devices} = {ranks} ranks cannot "
            f"share the run's global batch of data.batch_size={batch_size}; numbers of ranks that "
            f"can: {works}"
        )
    if train.accumulate != first["accumulate"]:
        return config
    pieces = first["nodes"] * first["devices"] * first["accumulate"]
    largest = max(1, batch_size // pieces)  # 0 for another global batch, which a resume refuses
    share = batch_size // ranks
    parts = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)
    if parts != train.accumulate and is_first_process():
        print(
            f"train.accumulate={parts} instead of {train.accumulate}: {ranks} ranks go on with "
            f"global batches of {batch_size}",
            file=sys.stderr,
        )
    return replace(config, train=replace(train, accumulate=parts))


def first_job(config: Config) -> dict[str, Any] | None:
    """The record of the run's first start, in its `run.json`; None for a new run."""
    if config.train.resume != "auto":
        return None
    jobs = run_record(Path(config.runs_dir) / config.name).get("jobs")
    return jobs[0] if jobs else None
