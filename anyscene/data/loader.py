"""A `DataLoader` that counts damage and raises the errors of its workers as one line."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import popen_fork
from multiprocessing.context import ForkContext, ForkProcess
from typing import Any, cast

import cv2
import torch
from torch.utils.data import DataLoader, IterableDataset
from webdataset.pipeline import DataPipeline

from anyscene.data.sample import AnyHostBatch
from anyscene.data.transforms import StreamItem
from anyscene.errors import AnySceneError, DamageError

log = logging.getLogger(__name__)

FEWEST_SAMPLES = 1000
"""`max_bad_share` counts against at least so many samples, so that a few early ones do not stop a
run whose share is within it."""


class StreamLoader(DataLoader):
    """A `DataLoader` that counts damage over its workers and raises their errors as one line.

    Worker processes are forked: they use numpy and OpenCV with one thread each and no torch
    kernels, which is safe then.
    """

    def __init__(self, pipeline: DataPipeline, workers: int, max_bad_share: float):
        super().__init__(
            cast(IterableDataset[StreamItem], pipeline),
            batch_size=None,
            num_workers=workers,
            multiprocessing_context=_Fork() if workers else None,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self.max_bad_share = max_bad_share

    def __iter__(self) -> Iterator[AnyHostBatch]:  # type: ignore[override]
        """The batches. Raises the workers' errors, and `DamageError` above `max_bad_share`."""
        tally = DamageTally(self.max_bad_share)
        try:
            for item in super().__iter__():
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, list):
                    tally.add(0, item)
                else:
                    tally.add(len(item["key"]), item["damage"])
                    yield item
        except (AnySceneError, DamageError):
            self._iterator = None  # or else the traceback keeps it, and workers end 5 s late each
            raise


class _Popen(popen_fork.Popen):
    """A process whose end cannot be held back.

    At the end of a program multiprocessing terminates the workers that are left, and waits for them
    without limit. By SIGTERM that is forever in training, where workers inherit its block (see
    `anyscene.preemption`).
    """

    def terminate(self) -> None:
        self.kill()


class _Worker(ForkProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:
        return _Popen(process_obj)


class _Fork(ForkContext):
    Process = _Worker


@dataclass
class DamageTally:
    """Counts, logs and limits the damaged samples of a loader."""

    max_bad_share: float
    read: int = 0
    damaged: int = 0

    def add(self, whole: int, damage: list[str]) -> None:
        """Count a batch. Raises `DamageError` once too large a share is damaged."""
        self.read += whole + len(damage)
        for line in damage:
            self.damaged += 1
            if self.damaged & (self.damaged - 1) == 0:  # 1, 2, 4, 8, ...
                log.warning(
                    "damaged sample, number %d of %d read: %s", self.damaged, self.read, line
                )
            if self.damaged > self.max_bad_share * max(self.read, FEWEST_SAMPLES):
                raise DamageError(
                    f"{self.damaged} of {self.read} samples read are damaged, more than "
                    f"data.max_bad_share={self.max_bad_share} allows; the last one: {line}; check "
                    "the shards with `anyscene prepare verify`"
                )


def _unchanged(batch: Any) -> Any:
    """No conversion: the pipeline makes whole batches. A named function, so that it pickles."""
    return batch


def _start_worker(_: int) -> None:
    """One thread a worker: several would compete for the cores."""
    cv2.setNumThreads(0)
