"""A folder that appears under its name when it is whole. No torch here."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anyscene.files import part_of
from anyscene.locks import claimed


@contextmanager
def new_folder(out: Path, maker: str) -> Iterator[Path]:
    """The name of a folder to make, which becomes `out` at the end; what was there goes only then.

    What killed processes have left of it is removed, but on a file system without locks, where
    they may be alive.

    Args:
        out: the folder, or a link to it.
        maker: who makes such folders, for a user who runs two of them at once.

    Raises:
        InputError: another process makes `out`.
    """
    folder = out.resolve()
    lock = folder.with_name(f".{folder.name}.lock")
    with claimed(lock, out, f"another {maker}", "choose another folder") as is_alone:
        if is_alone:
            remove_remains(folder, "part")
        part = part_of(folder)
        try:
            yield part
            move_into_place(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        if is_alone:  # now that there is a newer one: a kill may have left nothing else
            remove_remains(folder, "old")


def remove_remains(folder: Path, kind: str) -> None:
    """What a kill has left of the folder to be made (`part`) or of the one before (`old`)."""
    name = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]+\.{kind}")
    for path in folder.parent.iterdir():
        if name.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def move_into_place(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`; where that fails the one before has its name back."""
    old = part.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
