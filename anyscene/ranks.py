"""Which process this is, whoever started it; known before the ranks are set up. No torch here."""

import os
import platform


def is_first_process() -> bool:
    """Whether this process is rank zero."""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def local_rank() -> int:
    """Number of this process on its node."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def node_name() -> str:
    """The node as its cluster calls it, or this machine's name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0


def place() -> str:
    """How errors of SLURM's other ranks than the first begin."""
    rank = os.environ.get("SLURM_PROCID", "0")
    return "" if rank == "0" else f"rank {rank} on {node_name()}: "
