"""Checkpoints of which each rank writes its share, and what makes one of them.

`step-XXXXXXXX.ckpt` is then a folder with a file a rank. Each file is an ordinary checkpoint in
which a tensor that the ranks share is `{"shape": of the whole, "share": rows of this rank}`. The
record beside the folder lists the files and comes last, as that of a single file.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from anyscene.errors import DamageError

SHAPE, SHARE = "shape", "share"
POLL_SECONDS = 0.2


def share_name(rank: int, ranks: int) -> str:
    """The file of a rank, in the checkpoint's folder."""
    return f"rank-{rank:05d}-of-{ranks:05d}.ckpt"


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


def wait_for_shares(
    folder: Path, writers: Iterable[int], ranks: int, seconds: float
) -> list[dict[str, Any]]:
    """Name, size and checksum of the files of some of the ranks, once all these are written.

    Raises `DamageError` that names the ranks whose file does not come.
    """
    names = {rank: share_name(rank, ranks) for rank in writers}
    records = {rank: (folder / name).with_suffix(".json") for rank, name in names.items()}
    end = time.monotonic() + seconds
    while missing := [rank for rank, record in records.items() if not record.is_file()]:
        if time.monotonic() > end:
            told = ", ".join(map(str, missing))
            raise DamageError(f"rank {told} did not write a share within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    return [{"name": names[rank], **json.loads(records[rank].read_text())} for rank in records]


def sha256_of_shares(shares: list[Path]) -> str:
    """Checksum of the checksums in the shares' records, in the order of ranks."""
    digests = [json.loads(share.with_suffix(".json").read_text())["sha256"] for share in shares]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
