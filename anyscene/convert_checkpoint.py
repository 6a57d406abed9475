"""`anyscene convert`: one file of a checkpoint of which each rank wrote a share."""

from pathlib import Path

from anyscene.checkpoint import check_checkpoint, read_checkpoint, write_checkpoint
from anyscene.errors import InputError
from anyscene.records import is_finished


def convert_checkpoint(folder: Path, out: Path) -> None:
    """Make one file, with its record, of a checkpoint in shares.

    Raises:
        InputError: there is no such checkpoint, it is one file already, or `out` cannot be used.
        DamageError: it is damaged.
    """
    if folder.is_file():
        raise InputError(f"{folder} is one file already")
    if not folder.is_dir():
        raise InputError(f"no checkpoint {folder}")
    if not is_finished(folder):
        record = folder.with_suffix(".json")
        raise InputError(f"{folder} is no checkpoint in shares: there is no record {record}")
    if out.suffix != ".ckpt":
        raise InputError(f"--out {out} must end in .ckpt: its record is beside it as .json")
    for path in (out, out.with_suffix(".json")):
        if path.exists():
            raise InputError(f"--out {out}: {path} is there already; give another name")
    check_checkpoint(folder)
    write_checkpoint(read_checkpoint(folder), out)
