"""Checkpoints of which each rank writes its share, and what makes one of them.

`step-XXXXXXXX.ckpt` is then a folder with a file a rank. Each file is an ordinary checkpoint in
which a tensor that the ranks share is `{"shape": of the whole, "share": rows of this rank}`. The
record beside the folder lists the files and comes last, as that of a single file.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from anyscene.errors import DamageError
from anyscene.files import replace_file
from anyscene.records import checkpoint_record, is_finished

SHAPE, SHARE = "shape", "share"
FAILED = ".failed"
"""In place of `.ckpt`: the file in which a rank says why its share does not come."""
POLL_SECONDS = 0.2


def share_name(rank: int, ranks: int) -> str:
    """The file of a rank, in the checkpoint's folder."""
    return f"rank-{rank:05d}-of-{ranks:05d}.ckpt"


def shares_of(folder: Path) -> list[Path]:
    """The files of a checkpoint in shares, in the order of ranks."""
    return [folder / name for name in checkpoint_record(folder)["shares"]]


def with_own_shares(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint with this rank's share in place of each tensor that the ranks share."""
    return apply_to_collection(checkpoint, DTensor, _own_share)


def _own_share(tensor: DTensor) -> dict[str, Any]:
    if tensor.placements != (Shard(0),):
        raise TypeError(f"only tensors shared along their rows can be saved: {tensor.placements}")
    return {SHAPE: list(tensor.shape), SHARE: tensor.to_local()}


def join_shares(parts: list[Any], join: Callable[[list[Tensor]], Tensor] = torch.cat) -> Any:
    """One checkpoint of those of all ranks, in their order; `join` makes a tensor of its shares.

    What is not shared is taken from the first rank.
    """
    first = parts[0]
    if isinstance(first, dict) and first.keys() == {SHAPE, SHARE}:
        return join([part[SHARE] for part in parts])
    if isinstance(first, dict):
        return type(first)(
            (key, join_shares([_entry(part, key) for part in parts], join)) for key in first
        )
    if isinstance(first, list | tuple):
        places = range(len(first))
        return type(first)(join_shares([_entry(p, i) for p in parts], join) for i in places)
    return first


def _entry(part: Any, key: Any) -> Any:
    """What a rank has there; None for what the first rank alone saves."""
    try:
        return part[key]
    except (KeyError, IndexError, TypeError):
        return None


class LateShareError(DamageError):
    """The time is up, and some rank has neither written its share nor said why not."""


def tell_failure(folder: Path, rank: int, ranks: int, reason: str) -> None:
    """Let the first rank know at once that a rank's share does not come."""
    note = (folder / share_name(rank, ranks)).with_suffix(FAILED)
    replace_file(note, lambda part: part.write_text(reason))


def wait_for_shares(folder: Path, ranks: int, seconds: float) -> list[dict[str, Any]]:
    """Name, size and checksum of the files of all ranks, once these are written.

    Raises:
        DamageError: at once, with the reasons, where ranks have told that they cannot write.
        LateShareError: names the ranks whose file does not come.
    """
    shares = [folder / share_name(rank, ranks) for rank in range(ranks)]
    end = time.monotonic() + seconds
    while missing := [rank for rank, share in enumerate(shares) if not is_finished(share)]:
        notes = [shares[rank].with_suffix(FAILED) for rank in missing]
        if reasons := [note.read_text() for note in notes if note.is_file()]:
            raise DamageError("; ".join(reasons))
        if time.monotonic() > end:
            told = ", ".join(map(str, missing))
            raise LateShareError(f"rank {told} did not write a share within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    return [{"name": share.name, **checkpoint_record(share)} for share in shares]


def wait_for_others(folder: Path, ranks: int, seconds: float) -> None:
    """Until each rank but the first has written its share or told that it cannot, or time is up."""
    shares = [folder / share_name(rank, ranks) for rank in range(1, ranks)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if all(is_finished(share) or share.with_suffix(FAILED).is_file() for share in shares):
            return
        time.sleep(POLL_SECONDS)


def sha256_of_shares(shares: list[Path]) -> str:
    """Checksum of the checksums in the shares' records, in the order of ranks."""
    digests = [checkpoint_record(share)["sha256"] for share in shares]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
