"""A data set prepared in parts, one on each machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from anyscene.data.sample import MANIFEST_NAME, part_names
from anyscene.errors import InputError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part `index` of `count`: the items index, index + count, index + 2 count, ...

    Neighbours go to different parts, so that all parts take the same time and see the same kinds
    of images however the items are sorted.
    """

    index: int = 0
    count: int = 1

    def check(self, out: Path) -> None:
        """Raises `InputError` for an impossible part, or an `out` that is divided otherwise."""
        if not 0 <= self.index < self.count:
            raise InputError(
                f"shard_index={self.index} and num_shards={self.count}: "
                "the index must be from 0 to num_shards - 1"
            )
        if self.count > 1 and (out / MANIFEST_NAME).is_file():
            raise InputError(f"{out} holds a data set in one piece; choose another folder")
        there = part_names(path.name for path in out.glob("part-*"))
        if there and self.folder(out).name not in there:
            raise InputError(
                f"{out} holds a data set in {len(there)} parts; choose another folder, "
                f"or --num-shards {len(there)}"
            )

    def folder(self, out: Path) -> Path:
        """Where the shards of the part lie: `out` itself when it is the only one."""
        return out / f"part-{self.index:05d}-of-{self.count:05d}" if self.count > 1 else out

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part's share of the items."""
        return items[self.index :: self.count]


WHOLE = Part()
