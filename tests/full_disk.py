"""`python -m full_disk ...`: `anyscene`; rank FULL_DISK finds no room for its checkpoints."""

import errno
import os
import sys
from typing import Any

from anyscene.cli import main


def fill_the_disk() -> None:
    """From now on there is no room."""
    from anyscene import checkpoint

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if os.environ.get("LOCAL_RANK", "0") == os.environ["FULL_DISK"]:
        checkpoint._save = fail


if __name__ == "__main__":
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    fill_the_disk()
    sys.exit(main(sys.argv[1:]))
